"""Laws of the group, and of its action on points, joints and intrinsics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ti_backbones import o2
from ti_backbones.o2 import Element

TAU = 2 * math.pi
angles = st.floats(-20, 20, allow_nan=False)
elements = st.lists(st.tuples(st.booleans(), angles), min_size=1, max_size=5).map(
    lambda pairs: o2.element([f for f, _ in pairs], [a for _, a in pairs])
)


def pairs_of(n):
    """n elements of one and the same batch size."""
    one = st.tuples(st.booleans(), angles)
    return st.lists(st.tuples(*[one] * n), min_size=1, max_size=5).map(
        lambda rows: [o2.element([r[i][0] for r in rows], [r[i][1] for r in rows]) for i in range(n)]
    )


def assert_same(a: Element, b: Element, atol=1e-9):
    assert torch.equal(a.flip, b.flip)
    difference = torch.remainder(a.angle - b.angle + math.pi, TAU) - math.pi
    assert difference.abs().max() < atol


@given(elements)
def test_identity_is_neutral(g):
    e = o2.identity(len(g))
    assert_same(e @ g, g)
    assert_same(g @ e, g)


@given(elements)
def test_inverse_on_both_sides(g):
    e = o2.identity(len(g))
    assert_same(o2.inverse(g) @ g, e)
    assert_same(g @ o2.inverse(g), e)


@given(pairs_of(3))
def test_composition_is_associative(triple):
    f, g, h = triple
    assert_same((h @ g) @ f, h @ (g @ f))


@given(pairs_of(2))
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_every_frequency_is_a_representation(k, pair):
    g, h = pair
    assert torch.allclose(o2.matrix(h, k) @ o2.matrix(g, k), o2.matrix(h @ g, k), atol=1e-9)
    assert torch.allclose(o2.matrix(g, k).mT @ o2.matrix(g, k), torch.eye(2, dtype=torch.float64), atol=1e-12)


def test_all_frequencies_at_once_equal_one_by_one():
    g = o2.sample(6)
    k = torch.tensor([1.0, 3.0, 8.0])
    assert torch.allclose(o2.matrix(g, k), torch.stack([o2.matrix(g, int(i)) for i in k], 1))


@given(st.tuples(angles, angles, angles, angles))
def test_nine_compositions_of_the_paper(numbers):
    """TI-Net, arXiv 2502.12535: the first row element acts first."""
    a1, a2, b1, b2 = numbers
    r, hr, h = (lambda t: o2.element(False, t)), (lambda t: o2.element(True, t)), o2.element(True, 0.0)
    first, second = [h, r(a1), hr(a2)], [h, r(b1), hr(b2)]
    table = [
        [o2.identity(), hr(b1), r(b2)],
        [hr(-a1), r(a1 + b1), hr(b2 - a1)],
        [r(-a2), hr(a2 + b1), r(b2 - a2)],
    ]
    for row, g in zip(table, first, strict=True):
        for expected, k in zip(row, second, strict=True):
            assert_same(k @ g, expected)


def test_counter_clockwise_as_a_viewer_sees_it():
    """A quarter turn takes the point right of the centre to the point above it (y points down)."""
    moved = o2.act_on_points(o2.element(False, math.pi / 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    assert torch.allclose(moved, torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]), atol=1e-6)
    flipped = o2.act_on_points(o2.element(True, math.pi / 2), torch.tensor([[[1.0, 0.0]]]))  # flip first
    assert torch.allclose(flipped, torch.tensor([[[0.0, 1.0]]]), atol=1e-6)


@given(pairs_of(2))
def test_points_and_joints_are_acted_on_by_the_group(pair):
    g, h = pair
    center = torch.tensor([48.0, 31.5], dtype=torch.float64)
    p = torch.randn(len(g), 21, 2, dtype=torch.float64) * 50
    once = o2.act_on_points(h @ g, p, center)
    twice = o2.act_on_points(h, o2.act_on_points(g, p, center), center)
    assert torch.allclose(once, twice, atol=1e-8)
    x = torch.randn(len(g), 21, 3, dtype=torch.float64) * 50
    assert torch.allclose(o2.act_on_joints(h @ g, x), o2.act_on_joints(h, o2.act_on_joints(g, x)), atol=1e-8)
    back = o2.act_on_joints(o2.inverse(g), o2.act_on_joints(g, x))
    assert torch.allclose(back, x, atol=1e-8)
    assert torch.equal(o2.act_on_joints(g, x)[..., 2], x[..., 2])


@given(elements, st.floats(0, 96), st.floats(0, 96), st.sampled_from([1.0, 1.3]))
def test_moved_joints_project_onto_moved_pixels(g, px, py, aspect):
    """Exact on and off the crop's centre, and for fx != fy too."""
    n, center = len(g), torch.tensor([48.0, 48.0], dtype=torch.float64)
    k = torch.tensor([[300.0, 0, px], [0, 300.0 * aspect, py], [0, 0, 1]], dtype=torch.float64).repeat(n, 1, 1)
    x = torch.randn(n, 21, 3, dtype=torch.float64) * 80 + torch.tensor([20.0, -10, 700])
    moved = project(o2.act_on_intrinsics(g, k, center), o2.act_on_joints(g, x))
    assert torch.allclose(moved, o2.act_on_points(g, project(k, x), center), atol=1e-8)
    if aspect == 1.0:
        moved_k = o2.act_on_intrinsics(g, k, center)
        assert torch.allclose(moved_k[:, :2, :2], k[:, :2, :2], atol=1e-9)


def project(k, x):
    p = x @ k.mT
    return p[..., :2] / p[..., 2:]


def test_haar_sampling_is_uniform():
    g = o2.sample(20000, torch.Generator().manual_seed(1))
    for k in range(1, 5):  # every nontrivial representation averages to zero
        assert o2.matrix(g, k).mean(0).abs().max() < 0.03
    assert abs(g.flip.double().mean() - 0.5) < 0.02


def test_gradient_reaches_points_and_angle():
    angle = torch.tensor([0.3, 1.2], dtype=torch.float64, requires_grad=True)
    p = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, q: o2.act_on_points(o2.element([False, True], a), q, 3.0), (angle, p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_device_are_kept(dtype, device):
    g = o2.sample(3, device=device)
    p = torch.randn(3, 5, 3, device=device).to(dtype)
    moved = o2.act_on_joints(g, p)
    assert moved.dtype == dtype
    assert moved.device == p.device
    reference = o2.act_on_joints(g, p.double())
    assert torch.allclose(moved.double(), reference, atol=5e-2 if dtype == torch.bfloat16 else 1e-6)


def test_lengths_that_disagree_are_refused():
    with pytest.raises(ValueError, match="flip has 2 entries for a batch of 3"):
        o2.element([True, False], [0.0, 1.0, 2.0])
