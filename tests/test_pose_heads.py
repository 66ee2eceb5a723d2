"""Pose heads: the equivariant head's law for any weights, and what every head promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from ti_backbones import o2
from ti_backbones.errors import InputError
from ti_backbones.latent import LowRankAffine, O2Representation
from ti_backbones.pose import heads, metrics
from ti_backbones.pose.equivariant import EquivariantPoseHead, mean_pose

angles = st.floats(-20, 20, allow_nan=False)
elements = st.lists(st.tuples(st.booleans(), angles), min_size=1, max_size=6).map(
    lambda pairs: o2.element([f for f, _ in pairs], [a for _, a in pairs])
)
BLOCKS = [(4, 6, 5, 4), (0, 3), (5, 2, 0, 3), (1, 1, 1, 1, 1, 1, 1, 1, 1), (32, 45, 33, 23, 11)]


def representation(blocks: tuple[int, ...], dim: int, mean: float) -> O2Representation:
    transformer = O2Representation(dim, blocks=blocks).eval()
    torch.nn.init.normal_(transformer.weight)
    transformer.mean.normal_(0, mean) if mean else transformer.mean.zero_()
    return transformer.requires_grad_(False)


def equivariant(blocks: tuple[int, ...], seed: int, size: float, mean: float, device: str = "cpu"):
    """A transformer, a calibrated head with random weights of any size, and latents of their size (6, D)."""
    torch.manual_seed(seed)
    dim = max(2 * sum(blocks) + blocks[0], 24)
    transformer = representation(blocks, dim, mean).to(device)
    head = EquivariantPoseHead(transformer, width=32).to(device)
    z = torch.randn(6, dim, device=device) * torch.rand(dim, device=device) + transformer.mean
    head.calibrate(z)
    for p in head.parameters():
        p.data += torch.randn_like(p) * size * p.std().nan_to_num(1.0).clamp(min=0.1)
    return transformer, head.eval(), z


def largest_deviation(transformer, head, z: Tensor, g: o2.Element) -> float:
    """max over the batch of ‖pose(T_g z) - g·pose(z)‖ / ‖pose(z)‖."""
    with torch.no_grad():
        moved = heads.as_joints(head(transformer(z, g)))
        expected = o2.act_on_joints(g, heads.as_joints(head(z)))
    return ((moved - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))).max().item()


@settings(max_examples=150, deadline=None)
@given(
    elements, st.sampled_from(BLOCKS), st.integers(0, 2**16), st.sampled_from([0.0, 0.3, 3.0]), st.sampled_from([0, 1])
)
def test_the_pose_moves_exactly_with_the_latent(g, blocks, seed, size, mean):
    """pose(T_g z) = g·pose(z) for any weights, flips and rotations."""
    transformer, head, z = equivariant(blocks, seed, size, mean)
    z = z[: len(g)]
    assert largest_deviation(transformer.double(), head.double(), z.double(), g) < 1e-9


@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_law_holds_to_the_rounding_of_float32(blocks, size):
    for seed in range(10):
        transformer, head, z = equivariant(blocks, seed, size, 1)
        assert largest_deviation(transformer, head, z, o2.sample(6)) < 1e-5


def test_an_articulation_is_laid_as_scipy_lays_it():
    """The best rotation about the root is scipy's; the hand keeps its shape, and joints that are it are found again."""
    joints, bent = torch.randn(2, 50, 20, 3, dtype=torch.float64)
    placed, certain = heads.laid(bent, joints)
    for i in range(50):
        rotation, _ = Rotation.align_vectors(joints[i].numpy(), bent[i].numpy())
        turned = torch.from_numpy(rotation.apply(bent[i].numpy()))
        scale = (turned * joints[i]).sum() / turned.square().sum()
        assert torch.allclose(placed[i], scale * turned, atol=1e-8)
    assert metrics.pa_mpjpe(placed, bent).max() < 1e-9
    assert ((certain > 0) & (certain <= 2)).all()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn)
    assert torch.allclose(heads.laid(joints, 0.3 * joints @ turn.mT)[0], 0.3 * joints @ turn.mT)
    assert heads.laid(joints, torch.zeros_like(joints))[0].abs().max() == 0
    assert heads.laid(torch.zeros_like(joints), joints)[0].abs().max() == 0


def test_the_mean_of_poses_keeps_their_shape():
    """Of one hand in other orientations it is that hand; of a single pose, that pose; and it turns with the poses."""
    hand = torch.randn(1, 20, 3, dtype=torch.float64)
    turns = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(7, 3, 3, dtype=torch.float64))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None]
    poses = hand @ turns.mT
    mean = mean_pose(poses[None])
    assert metrics.pa_mpjpe(mean, hand) < 1e-9
    assert metrics.pa_mpjpe(poses.mean(0, keepdim=True), hand) > 1e-2
    assert torch.allclose(mean.norm(), hand.norm())
    assert torch.allclose(mean_pose(hand[None]), hand)
    assert torch.allclose(mean_pose((poses @ turns[0].mT)[None]), mean @ turns[0].mT)


@settings(max_examples=50, deadline=None)
@given(elements, st.sampled_from(BLOCKS), st.integers(0, 2**16))
def test_a_flip_exchanges_left_and_right_hands(g, blocks, seed):
    """pose(T_g z, side (-1)^f) = g·pose(z, side); and the side matters."""
    transformer, head, z = equivariant(blocks, seed, 0.3, 1)
    transformer, head, z = transformer.double(), head.double(), z[: len(g)].double()
    side = torch.tensor([1.0, -1, 0, 1, -1, 1])[: len(g)]
    with torch.no_grad():
        moved = heads.as_joints(head(transformer(z, g), torch.where(g.flip, -side, side)))
        expected = o2.act_on_joints(g, heads.as_joints(head(z, side)))
        other = heads.as_joints(head(z, -side))
    size = expected.norm(dim=(1, 2))
    assert ((moved - expected).norm(dim=(1, 2)) / size).max() < 1e-9
    assert ((other - heads.as_joints(head(z, side)).detach()).norm(dim=(1, 2)) / size)[side != 0].min() > 1e-3


def test_the_law_on_every_device_and_under_autocast(device):
    transformer, head, z = equivariant((4, 6, 5, 4), 0, 0.3, 1, device)
    g = o2.sample(6, device=device)

    def under_autocast(z: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return head(z)

    assert largest_deviation(transformer, under_autocast, z, g) < 1e-5


def test_the_law_holds_after_training_and_for_the_gradient():
    """Training on g·x instead of x gives the same loss, and the same gradient."""
    transformer, head, z = equivariant((4, 6, 5, 4), 1, 0.3, 1)
    target, g = torch.randn(6, 21, 3) * 50, o2.sample(6)
    gradients = []
    for latents, joints in ((z, target), (transformer(z, g), o2.act_on_joints(g, target))):
        head.zero_grad()
        (heads.as_joints(head(latents)) - joints).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in head.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


def test_the_other_heads_do_not_have_the_law():
    """So that the test above says something."""
    transformer, _, z = equivariant((4, 6, 5, 4), 0, 0, 0)
    for kind in ("articulated", "linear", "mlp", "paper"):
        head = heads.make(kind, transformer.dim).eval()
        for p in head.parameters():
            p.data.normal_(0, 0.1)
        assert largest_deviation(transformer, head, z, o2.sample(6)) > 0.1


def test_it_is_no_trivial_map():
    """Poses of different latents differ in every joint and axis, and the planes of every frequency matter."""
    transformer, head, z = equivariant((4, 6, 5, 4), 0, 0, 0)
    with torch.no_grad():
        pose = heads.as_joints(head(z))
        assert (pose[1:] - pose[:1])[:, 1:].abs().min() > 0
        for i in range(transformer.rank):
            moved = z + transformer.projection()[i]
            assert (heads.as_joints(head(moved)) - pose).norm() > 1e-3, i


@pytest.mark.parametrize("kind", heads.KINDS)
def test_every_head(kind):
    """Shape, gradient to every parameter, state that comes back, and independence of the batch."""
    transformer = representation((4, 6, 5, 4), 40, 1)
    head = heads.make(kind, 40, transformer)
    z = torch.randn(64, 40) * 3 + 1
    head.calibrate(z)
    out = head(z, torch.ones(64))
    assert out.shape == (64, 120 if head.articulates else 60)
    if kind != "linear":  # whose weights are 0 at first
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    joints, bent = heads.said(out)
    assert joints.shape == bent.shape == heads.as_joints(out).shape == (64, 21, 3)
    assert (joints[:, 0] == 0).all()
    assert torch.equal(joints[:, 1:].flatten(1), out[:, :60] * heads.UNIT_MM)
    assert torch.equal(bent[:, 1:].flatten(1), out[:, -60:] * heads.UNIT_MM)
    head.eval()
    again = heads.make(kind, 40, representation((4, 6, 5, 4), 40, 1), **head.options)
    again.load_state_dict(head.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(z), head(z, None))
        assert torch.allclose(head(z[:3]), head(z)[:3], atol=1e-5)


def test_standardised_latents_have_mean_0_and_variance_1():
    z = torch.randn(512, 8) * torch.tensor([10.0] * 7 + [1e-6]) + 5
    standardise = heads.Standardise(8)
    standardise.calibrate(z)
    x = standardise(z)
    assert x.mean(0).abs().max() < 1e-4
    assert torch.allclose(x.std(0)[:7], torch.ones(7), atol=0.02)
    assert x[:, 7].abs().max() < 1e-3  # what hardly varies stays small


def test_heads_that_do_not_fit_are_refused():
    o2_transformer = representation((4, 6), 24, 0)
    for transformer, words in (
        (None, "has none"),
        (LowRankAffine(24, 8), "'affine'"),
        (O2Representation(24, blocks=(4,)), "frequency 1"),
        (O2Representation(24, blocks=(4, 0, 3)), "frequency 1"),
        (representation((4, 6), 30, 0), "of one of width 24"),
    ):
        with pytest.raises(InputError, match=words):
            heads.make("equivariant", 24, transformer)
    with pytest.raises(InputError, match="equivariant, mlp, linear, paper"):
        heads.make("transformer", 24, o2_transformer)
    with pytest.raises(InputError, match="not 58 numbers"):
        heads.make("equivariant", 24, o2_transformer, outputs=58)
    assert heads.make("articulated", 24, outputs=58)(torch.randn(2, 24)).shape == (2, 58)
