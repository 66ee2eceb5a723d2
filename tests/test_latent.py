"""Laws of the latent transformers, and what the constraints do to free latents."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ti_backbones import latent, o2
from ti_backbones.latent import LowRankAffine, O2Representation


def built(dim, rank=None, blocks=None, seed=0):
    """A representation with random weights and a random fixed point, and 16 latents around it."""
    rng = torch.Generator().manual_seed(seed)
    transformer = O2Representation(dim, rank, blocks)
    with torch.no_grad():
        transformer.weight.copy_(torch.randn(transformer.rank, dim, generator=rng))
        transformer.mean.copy_(torch.randn(dim, generator=rng) * 3)
    return transformer, torch.randn(16, dim, generator=rng) * 2 + transformer.mean, rng


def relative(difference, z, transformer):
    return (difference.norm(dim=1) / (z - transformer.mean).norm(dim=1)).max().item()


def assert_laws(transformer, z, rng, atol=1e-5):
    n = len(z)
    g, h = o2.sample(n, rng), o2.sample(n, rng)
    assert relative(transformer(transformer(z, g), h) - transformer(z, h @ g), z, transformer) < atol
    assert relative(transformer(z, o2.identity(n)) - z, z, transformer) < atol
    assert relative(transformer(transformer(z, g), o2.inverse(g)) - z, z, transformer) < atol
    fixed = transformer.mean.expand(n, -1)
    assert torch.allclose(transformer(fixed, g), fixed, atol=atol * transformer.mean.norm().item())


@given(st.integers(32, 160), st.data())
@settings(deadline=None, max_examples=25)
def test_exact_for_random_weights(dim, data):
    rank = data.draw(st.integers(1, dim))
    frequencies = data.draw(st.integers(1, 8))
    transformer, z, rng = built(dim, rank, latent.multiplicities(rank, frequencies), data.draw(st.integers(0, 99)))
    assert_laws(transformer, z, rng)


@pytest.mark.parametrize(("dim", "rank"), [(32, 32), (512, 256), (1280, 1280), (2048, 256), (4096, 512)])
@pytest.mark.parametrize("training", [True, False])
def test_exact_at_real_widths(dim, rank, training):
    transformer, z, rng = built(dim, rank, latent.multiplicities(rank, 8))
    with torch.no_grad():
        assert_laws(transformer.train(training), z, rng)


@pytest.mark.slow
def test_exact_at_full_rank_of_the_widest_latent():
    transformer, z, rng = built(4096, 4096, latent.multiplicities(4096, 8))
    with torch.no_grad():
        assert_laws(transformer.eval(), z, rng)


def test_still_exact_after_a_thousand_steps():
    transformer, z, rng = built(64, 48)
    before = transformer.projection().detach().clone()
    optimiser = torch.optim.AdamW(transformer.parameters(), lr=3e-2, weight_decay=0.05)
    target = torch.randn(16, 64, generator=rng)
    for _ in range(1000):
        g = o2.sample(16, rng)
        loss = (transformer(z, g) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (transformer.projection() - before).norm() > 1  # it did learn
    assert_laws(transformer, z, rng)


def test_equals_a_dense_reference():
    """T_g built from o2.matrix, block by block, in float64."""
    transformer, z, rng = built(24, blocks=(3, 2, 0, 1))
    g = o2.sample(16, rng)
    p = transformer.projection().detach().double()
    assert torch.allclose(p @ p.mT, torch.eye(9, dtype=torch.float64), atol=1e-5)
    for i in range(16):
        sign = (1.0 - 2.0 * g[i : i + 1].flip.double()).reshape(1, 1)
        blocks = [sign] * 3 + [o2.matrix(g[i : i + 1], k)[0] for k in (1, 1, 3)]
        dense = torch.eye(24, dtype=torch.float64) + p.mT @ (torch.block_diag(*blocks) - torch.eye(9)) @ p
        y = z[i].double() - transformer.mean
        assert torch.allclose(transformer(z, g)[i].double(), transformer.mean + dense @ y, atol=1e-4)


def test_frequency_one_is_the_action_on_points():
    """Coordinates of frequency 1 turn as image points (x right, y down) do."""
    transformer, z, rng = built(16, blocks=(0, 4))
    g = o2.sample(16, rng)
    points = transformer.coordinates(z).unflatten(1, (4, 2))
    moved = transformer.coordinates(transformer(z, g)).unflatten(1, (4, 2))
    assert torch.allclose(moved, o2.act_on_points(g, points), atol=1e-4)


@given(st.integers(1, 4096), st.integers(1, 8))
def test_multiplicities_add_up(rank, frequencies):
    blocks = latent.multiplicities(rank, frequencies)
    assert blocks[0] + 2 * sum(blocks[1:]) == rank
    assert min(blocks) >= 0
    assert all(a >= b - 1 for a, b in pairwise(blocks[1:]))  # low frequencies first


def test_fixed_point_is_the_mean_of_uniform_views():
    transformer, _, rng = built(8, 4)
    transformer.mean.zero_()
    centre = torch.randn(8, generator=rng)
    for _ in range(300):
        transformer.observe(torch.randn(256, 8, generator=rng) + centre)
    assert torch.allclose(transformer.mean, centre, atol=0.1)
    assert transformer.observed == 300


def test_projection_is_cached_in_eval_and_never_stale():
    transformer, z, rng = built(16, 8)
    transformer.eval()
    g = o2.sample(16, rng)
    with torch.no_grad():
        first = transformer.projection()
        assert transformer.projection() is first
        transformer.weight.add_(torch.randn(8, 16, generator=rng))
        assert not torch.allclose(transformer.projection(), first)
        other = O2Representation(16, 8)
        transformer.load_state_dict(other.state_dict())
        assert torch.allclose(transformer(z, g), other.train()(z, g), atol=1e-5)
        changed = transformer.double().projection()
        assert changed.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", latent.KINDS)
def test_dtype_and_device_are_kept(kind, dtype, device):
    transformer = latent.make(kind, 32).to(device)
    if dtype == torch.float64:
        transformer = transformer.double()
    z = torch.randn(5, 32, device=device)
    reference = transformer(z.to(transformer.state_dict()[next(iter(transformer.state_dict()))].dtype), o2.identity(5))
    if kind == "affine" and dtype == torch.bfloat16:
        with torch.autocast(z.device.type, torch.bfloat16):
            moved = transformer(z.to(dtype), o2.identity(5))
    else:
        moved = transformer(z.to(dtype), o2.identity(5))
    assert moved.dtype == dtype
    assert moved.device == z.device
    assert torch.allclose(moved.double(), reference.double(), atol=5e-2)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_against_finite_differences(training):
    transformer = O2Representation(6, blocks=(1, 1, 1)).double().train(training)
    z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    angle = torch.rand(4, dtype=torch.float64, requires_grad=True)

    def moved(z, angle, weight):
        with torch.nn.utils.stateless._reparametrize_module(transformer, {"weight": weight}):
            return transformer(z, o2.element([0, 1, 0, 1], angle))

    assert torch.autograd.gradcheck(moved, (z, angle, transformer.weight.detach().requires_grad_()))


def test_affine_is_the_authors_form():
    """z + W2 W1 [z; e(θ)] with weights of its own for rotation, flip, and flip with rotation."""
    transformer, z = LowRankAffine(12, 5), torch.randn(4, 12)
    for layer in transformer.up:
        torch.nn.init.normal_(layer.weight)
    g = o2.element([False, True, True, False], [0.3, 0.0, 1.1, 0.0])
    moved = transformer(z, g)
    for i, which in enumerate((0, 2, 1, 0)):
        angle = g.angle[i].float()
        e = transformer.embed(torch.stack([angle.cos(), angle.sin()])[None])[0]
        x = z[i] if which == 2 else torch.cat([z[i], e])
        expected = z[i] + transformer.up[which].weight @ (transformer.down[which].weight @ x)
        assert torch.allclose(moved[i], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank 0 is out of range: from 1 to the latent's width, 16"),
        ({"rank": 17}, "rank 17 is out of range"),
        ({"blocks": (1, 1), "rank": 4}, "do not make rank 4"),
        ({"blocks": (0,) * 9 + (1,)}, "up to 9 counts"),
    ],
)
def test_errors_name_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        O2Representation(16, **arguments)


def test_unknown_kind():
    with pytest.raises(ValueError, match="unknown latent transformer 'so3': one of o2, affine"):
        latent.make("so3", 16)


# --- What the constraints do to latents that are free to move ---------------------------------------------------


SIGNALS, ANGLES, WIDTH = 128, 12, 12


def rotated_signals(rng):
    """(SIGNALS, ANGLES, WIDTH): linear measurements of random periodic signals s(φ - θ), at equal steps of θ."""
    k = torch.arange(1, 5)
    phase = torch.rand(SIGNALS, 1, 4, generator=rng) * o2.TAU
    theta = torch.arange(ANGLES)[None, :, None] * (o2.TAU / ANGLES)
    harmonics = torch.cat([(k * theta + phase).cos(), (k * theta + phase).sin()], -1) / k.repeat(2)
    own = torch.randn(SIGNALS, 1, 4, generator=rng).expand(-1, ANGLES, -1)  # what does not turn
    return torch.cat([harmonics, own], -1) @ torch.randn(WIDTH, WIDTH, generator=rng)


def whiten(z):
    """Zero mean and identity covariance: no collapse in scale or dimension is possible."""
    flat = z.flatten(0, 1)
    centred = flat - flat.mean(0)
    lower = torch.linalg.cholesky(centred.mT @ centred / len(flat) + 1e-6 * torch.eye(flat.shape[1]))
    return torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT.view_as(z)


def minimise_constraints(transformer, z, rng, steps=700):
    """Minimise ordinary and secondary errors over the latents themselves and the transformer."""
    free = z.clone().requires_grad_()
    optimiser = torch.optim.Adam([free, *transformer.parameters()], lr=5e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    step = o2.TAU / ANGLES
    for _ in range(steps):
        i = torch.randint(SIGNALS, (512,), generator=rng)
        a, b, c = torch.randint(ANGLES, (3, 512), generator=rng)
        white = whiten(free)
        g, h = o2.element(False, (b - a) * step), o2.element(False, (c - b) * step)
        moved = transformer(white[i, a], g)
        loss = (moved - white[i, b]).square().mean() + (transformer(moved, h) - white[i, c]).square().mean()
        loss = loss + (transformer(white[i, a], o2.identity(512)) - white[i, a]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return whiten(free.detach()), loss.item()


def decoded_angle(z):
    """R² of the angle between two views of one signal, by ridge regression on products of their latents.

    Products hold every linear and bilinear cue; signals of the test half are new.
    """
    i = torch.arange(SIGNALS).repeat_interleave(32)
    a, b = torch.randint(ANGLES, (2, len(i)), generator=torch.Generator().manual_seed(1))
    angle = (b - a) * (o2.TAU / ANGLES)
    target = torch.stack([angle.cos(), angle.sin()], -1).double()
    x = torch.einsum("ni,nj->nij", z[i, a], z[i, b]).flatten(1).double()
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    half = len(x) // 2
    gram = x[:half].mT @ x[:half] + 10.0 * torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x[:half].mT @ target[:half])
    residual = (x[half:] @ weights - target[half:]).square().sum()
    return 1 - (residual / (target[half:] - target[half:].mean(0)).square().sum()).item()


@pytest.mark.slow
def test_constraints_make_affine_latents_invariant_and_leave_the_exact_ones_moving():
    """Additive, continuous and periodic translations vanish: LowRankAffine ends where nothing turns."""
    rng = torch.Generator().manual_seed(0)
    start = whiten(rotated_signals(rng))
    assert decoded_angle(start) > 0.95
    affine, affine_loss = minimise_constraints(LowRankAffine(WIDTH, WIDTH), start, rng)
    exact, exact_loss = minimise_constraints(O2Representation(WIDTH, blocks=(0, 2, 2, 1, 1)), start, rng)
    print(
        f"R2 of the angle: start {decoded_angle(start):.2f}, affine {decoded_angle(affine):.2f} "
        f"(loss {affine_loss:.1e}), exact {decoded_angle(exact):.2f} (loss {exact_loss:.1e})"
    )
    assert affine_loss < 2e-3
    assert exact_loss < 2e-3
    assert decoded_angle(affine) < 0.05
    assert decoded_angle(exact) > 0.8

    def moving_share(z):
        return (z - z.mean(1, keepdim=True)).square().mean().item()

    assert moving_share(affine) < 1e-3
    assert moving_share(exact) > 0.95
