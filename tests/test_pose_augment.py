"""Augmentation moves images, joints, pixels and sides together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from moments import isomorphic_backbone
from torch import Tensor

from ti_backbones import o2
from ti_backbones.data.order import uniforms
from ti_backbones.images import FRAMES, view
from ti_backbones.latent import O2Representation
from ti_backbones.pose import augment
from ti_backbones.pose.heads import make
from ti_backbones.pose.model import PoseModel, PoseSpec
from ti_backbones.pose.objective import Objective, numbers
from ti_backbones.pose.recipe import Recipe

SIZE = 64
MEAN, STD = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


def blob(x: Tensor, y: Tensor) -> Tensor:
    """(B, 3, SIZE, SIZE) images with a bright spot at (x, y) (B,) pixels."""
    c = torch.arange(SIZE) + 0.5
    d = (c[None, None, :] - x[:, None, None]) ** 2 + (c[None, :, None] - y[:, None, None]) ** 2
    return torch.exp(-d / 8)[:, None].expand(-1, 3, -1, -1).float()


def where(images: Tensor) -> Tensor:
    """(B, 2) the spots' centres."""
    weight = images[:, 0].double()
    c = torch.arange(SIZE, dtype=torch.float64) + 0.5
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * c).sum(1) / total, (weight.sum(2) * c).sum(1) / total], 1)


@pytest.mark.parametrize("frame", FRAMES)
def test_views_are_those_of_pretraining(frame):
    g, x = o2.sample(8), torch.randn(8, 3, SIZE, SIZE)
    assert torch.allclose(augment.place(x, g, frame), view(g, x, frame=frame), atol=1e-5)
    identity = o2.identity(8)
    assert torch.allclose(augment.place(x, identity, frame), view(identity, x, frame=frame), atol=1e-5)


def test_what_is_seen_lands_where_it_should():
    """A spot moves by g about the centre after a zoom about it, and by the shift."""
    n = 16
    place = torch.rand(n, 2) * 12 + SIZE / 2 - 6
    g, zoom, shift = o2.sample(n), 0.8 + 0.4 * torch.rand(n), (torch.rand(n, 2) - 0.5) * 0.3
    moved = augment.place(blob(place[:, 0], place[:, 1]), g, "full", zoom, shift)
    centred = (place - SIZE / 2).double() * zoom[:, None]
    expected = o2.act_on_points(g, centred[:, None])[:, 0] + SIZE / 2 + shift * SIZE
    assert (where(moved) - expected).abs().max() < 0.1


@pytest.mark.parametrize("flip", [False, True])
def test_joints_turn_with_the_image(flip):
    """A spot at a joint's place, seen by an orthographic camera, is found at the moved joint."""
    n, recipe = 32, Recipe(rotation=180, flip=flip, zoom=0, shift=0, colour=0)
    joints = (torch.rand(n, 21, 3) - 0.5) * 30
    images = blob(joints[:, 5, 0] + SIZE / 2, joints[:, 5, 1] + SIZE / 2)
    u, side = torch.rand(n, augment.UNIFORMS), torch.ones(n)
    views, moved, sides = augment.augment_images(images, joints, side, u, recipe, "full", MEAN, STD)
    assert (where(views) - moved[:, 5, :2] - SIZE / 2).abs().max() < 0.15
    assert torch.equal(moved[..., 2], joints[..., 2])
    chirality = torch.linalg.det(joints[:, 1:4]) * torch.linalg.det(moved[:, 1:4])
    assert torch.equal(chirality.sign(), sides)
    assert set(sides.tolist()) == ({1.0, -1.0} if flip else {1.0})


def test_elements_are_spread_over_the_range():
    u = torch.rand(4000, 2)
    g = augment.elements(u, 30, True)
    angle = torch.remainder(g.angle + math.pi, o2.TAU) - math.pi
    assert angle.abs().max() <= math.radians(30)
    assert angle.min() < math.radians(-29) < math.radians(29) < angle.max()
    assert abs(g.flip.float().mean() - 0.5) < 0.05
    assert not augment.elements(u, 30, False).flip.any()


def test_latents_and_joints_move_alike():
    transformer = O2Representation(24, blocks=(2, 5)).eval()
    z, joints, side = torch.randn(3, 24), torch.randn(3, 21, 3), torch.tensor([1.0, -1, 0])
    u = torch.rand(12, 2)
    recipe = Recipe(augment="latent", flip=True)
    moved, turned, sides = augment.augment_latents(z, joints, side, u, recipe, transformer)
    g = augment.elements(u, 180, True)
    assert torch.allclose(moved, transformer(z.repeat(4, 1), g))
    assert torch.allclose(turned, o2.act_on_joints(g, joints.repeat(4, 1, 1)))
    assert torch.equal(sides, side.repeat(4) * (1 - 2 * g.flip.float()))


def test_nothing_moves_without_augmentation():
    x, joints, side = torch.rand(4, 3, SIZE, SIZE), torch.randn(4, 21, 3), torch.ones(4)
    recipe = Recipe(augment="none", zoom=0, shift=0, colour=0)
    views, moved, _ = augment.augment_images(x, joints, side, torch.rand(4, 10), recipe, "full", MEAN, STD)
    assert torch.equal(views, x)
    assert torch.equal(moved, joints)


def test_turned_images_are_tested_as_they_are_trained():
    """Whole images have the mean colour in the corners that turn into view, and not black."""
    head = make("linear", 512)
    model = PoseModel(isomorphic_backbone().encoder, None, head, PoseSpec(SIZE, "full", "joints", head.kind))
    images = torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    turned = model.views(images, o2.element(False, torch.pi / 4, 1))
    assert turned[..., 0, 0].abs().max() == 0
    assert torch.allclose(turned[..., SIZE // 2, SIZE // 2], model.views(images)[..., 0, 0], atol=1e-5)
    assert (model.views(images)[..., 0, 0] > 1).all()


def test_what_is_right_stays_right_wherever_elements_act():
    """Turned images, turned latents or both: an equivariant head on an isomorphic latent predicts it."""
    torch.manual_seed(0)
    ti, count = isomorphic_backbone(), 32
    c = torch.linspace(-1, 1, SIZE)
    at = torch.rand(count, 3, 2) - 0.5
    squared = (c - at[..., 0, None, None]) ** 2 + (c[:, None] - at[..., 1, None, None]) ** 2
    batch = {"image": (200 * torch.exp(-8 * squared)).byte(), "valid": torch.ones(count, 21, dtype=torch.bool)}
    head = make("equivariant", ti.latent_dim, ti.latent_transformer, articulates=False)
    spec = PoseSpec(SIZE, "disc", "joints", head.kind, head.options)
    model = PoseModel(ti.encoder, ti.latent_transformer, head, spec)
    z = model.eval().latents(model.views(batch["image"]))
    head.calibrate(z)
    batch["side"] = torch.ones(count)
    with torch.no_grad():
        batch["joints"] = model.pose(z, batch["side"])

    def loss(where: Any, joints: Tensor) -> float:
        recipe = Recipe(augment=where, zoom=0, shift=0, colour=0)
        u = uniforms(0, 0, count, numbers(recipe))
        return Objective(model, recipe, bf16=False)(batch | {"joints": joints}, u)["l1"].item()

    still = o2.act_on_joints(o2.sample(count), batch["joints"])
    for where, share in (("none", 0.01), ("latent", 0.01), ("image", 0.5), ("both", 0.5)):  # bytes, and a random head
        assert loss(where, batch["joints"]) < share * loss(where, still)
