"""Laws of the action on images."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ti_backbones import images, o2


def smooth(n, size, generator=None):
    """Band-limited random images (n, 3, size, size), the same picture at every size."""
    rng = generator or torch.Generator().manual_seed(3)
    wave = torch.randn(n, 3, 6, 4, generator=rng, dtype=torch.float64)
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    phase = wave[..., 0, None, None] * 4 * x + wave[..., 1, None, None] * 4 * y + wave[..., 2, None, None]
    return (wave[..., 3, None, None] * phase.sin()).mean(2).float()


@given(st.lists(st.tuples(st.booleans(), st.integers(-4, 7)), min_size=1, max_size=6), st.sampled_from([7, 8, 33]))
@settings(deadline=None)
def test_quarter_turns_and_flips_are_bit_exact(pairs, size):
    x = torch.randn(len(pairs), 3, size, size)
    g = o2.element([f for f, _ in pairs], [k * math.pi / 2 for _, k in pairs])
    got = images.act(g, x)
    for row, source, (f, k) in zip(got, x, pairs, strict=True):
        expected = torch.rot90(source.flip(-1) if f else source, k, (-2, -1))
        assert torch.equal(row, expected)


@given(st.booleans(), st.integers(0, 3), st.floats(-9e-7, 9e-7))
@settings(deadline=None)
def test_the_warp_agrees_with_the_gather(flip, k, slip):
    x = torch.randn(1, 2, 9, 9)
    g = o2.element(flip, k * math.pi / 2 + slip)
    gathered = images.act(g, x)
    assert torch.equal(gathered, images.act(o2.element(flip, k * math.pi / 2), x))
    assert torch.allclose(images._warp(g, x, (9, 9), 1.0), gathered, atol=1e-4)


def test_general_angles_agree_with_pillow():
    """PIL rotates counter-clockwise about the exact centre with bilinear sampling too."""
    x = (smooth(1, 64)[0].mul(40).add(128)).clamp(0, 255).byte()
    picture = Image.fromarray(x.permute(1, 2, 0).numpy())
    for degrees in (17.0, 123.0, 301.5):
        for flip in (False, True):
            source = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else picture
            expected = np.asarray(source.rotate(degrees, Image.Resampling.BILINEAR)).astype(int)
            got = images.act(o2.element(flip, math.radians(degrees)), x[None])[0].permute(1, 2, 0).numpy().astype(int)
            inside = images.disc_mask(64).numpy()
            assert np.abs(expected - got)[inside].max() <= 1


def composition_error(g, h, size):
    """RMS of h·(g·x) - (hg)·x inside the disc, relative to the image: what interpolation costs."""
    x = smooth(1, size)
    difference = images.act(h, images.act(g, x)) - images.act(h @ g, x)
    axis = torch.arange(size) - (size - 1) / 2
    inner = axis[:, None] ** 2 + axis**2 < (0.45 * size) ** 2
    return (difference[..., inner].square().mean().sqrt() / x.std()).item()


@given(st.booleans(), st.floats(0, 6.28), st.booleans(), st.floats(0, 6.28))
@settings(deadline=None, max_examples=25)
def test_composition_error_is_second_order_in_the_pixel(fg, ag, fh, ah):
    g, h = o2.element(fg, ag), o2.element(fh, ah)
    for size in (32, 64, 128):
        assert composition_error(g, h, size) < 30 / size**2


def test_composition_error_shrinks_with_resolution():
    g, h = o2.element(False, 0.7), o2.element(True, 1.9)
    errors = [composition_error(g, h, size) for size in (32, 64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert fine < coarse / 3


def test_image_and_points_move_together():
    """A bright spot is found where act_on_points says: convention and half pixel, on and off centre."""
    size, spots = 65, torch.tensor([[20.5, 12.5], [32.5, 32.5], [44.5, 40.5]])
    axis = torch.arange(size) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = torch.exp(-((x - spots[:, 0, None, None]) ** 2 + (y - spots[:, 1, None, None]) ** 2) / 8)[:, None]
    g = o2.element([False, True, True], [0.7, 2.1, 4.0])
    moved = images.act(g, picture)[:, 0].double()
    total = moved.sum((1, 2))
    found = torch.stack([(moved * x).sum((1, 2)) / total, (moved * y).sum((1, 2)) / total], -1)
    assert torch.allclose(found, o2.act_on_points(g, spots[:, None].double(), size / 2)[:, 0], atol=0.02)


def test_each_image_gets_its_own_element():
    x, g = torch.randn(5, 3, 16, 16), o2.element([0, 1, 0, 1, 1], [0.0, 1.0, math.pi, 0.0, 2.0])
    together = images.act(g, x)
    for i in range(5):
        assert torch.equal(together[i], images.act(g[i : i + 1], x[i : i + 1])[0])


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_gradients(scale):
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    g = o2.element([False, True, True], [0.4, math.pi / 2, 2.0])
    assert torch.autograd.gradcheck(lambda t: images.act(g, t, scale=scale), x)
    angle = torch.tensor([math.pi / 2], dtype=torch.float64, requires_grad=True)
    y = smooth(1, 16).double()
    assert torch.autograd.gradcheck(lambda a: images.act(o2.element(False, a + 0.01), y), angle, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_dtypes_and_devices(dtype, device):
    x = (torch.rand(4, 3, 12, 12, device=device) * 255).to(dtype)
    g = o2.element([0, 1, 0, 1], [0.0, math.pi, 0.5, 1.5])
    y = images.act(g, x)
    assert y.dtype == dtype
    assert y.device == x.device
    reference = images.act(g, x.double())
    assert torch.allclose(y.double(), reference, atol=1.1 if dtype in (torch.bfloat16, torch.uint8) else 1e-3)


def test_oblong_images_turn_in_pixels():
    """Off the square, half turns and flips are exact, and quarter turns keep the pixel's shape."""
    x = torch.randn(2, 3, 10, 16)
    assert torch.equal(images.act(o2.element([True, False], [0.0, math.pi]), x)[0], x[0].flip(-1))
    assert torch.equal(images.act(o2.element([True, False], [0.0, math.pi]), x)[1], x[1].flip((-1, -2)))
    quarter = images.act(o2.element([False, False], math.pi / 2), x)
    assert torch.allclose(quarter[..., 3:13], x[..., 3:13].rot90(1, (-2, -1)), atol=1e-5)


@pytest.mark.parametrize("frame", images.FRAMES)
def test_no_view_samples_outside_the_source(frame):
    """On a constant image every view is the same, at every angle: nothing comes in at the corners."""
    x = torch.ones(64, 1, 40, 40)
    views = images.view(o2.sample(64), x, frame=frame, fill=-1.0)
    assert torch.allclose(views, views[:1].expand_as(views), atol=1e-5)
    upright = images.view(o2.identity(), x[:1], frame=frame, fill=-1.0)
    assert torch.allclose(views[:1], upright, atol=1e-5)


def test_corners_of_a_disc_are_constant():
    x = torch.randn(8, 3, 32, 32)
    outside = ~images.disc_mask(32)
    corners = images.view(o2.sample(8), x, frame="disc", fill=0.25)[..., outside]
    assert bool((corners == 0.25).all())
    assert outside.float().mean() > 0.2


@pytest.mark.parametrize(("frame", "size"), [("crop", 24), ("crop", 40), ("disc", 24)])
def test_resized_views_follow_the_group(frame, size):
    x = smooth(2, 48)
    g = o2.element([True, False], [math.pi / 2, math.pi])
    upright = images.view(o2.identity(2), x, size, frame)
    assert upright.shape[-2:] == (size, size)
    assert torch.allclose(images.view(g, x, size, frame), images.act(g, upright), atol=1e-6)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="3 group elements for 2 images"):
        images.act(o2.identity(3), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="8 x 9"):
        images.view(o2.identity(1), torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match="unknown frame 'oval'"):
        images.view(o2.identity(1), torch.zeros(1, 3, 8, 8), frame="oval")
