"""The objective's terms against plain computations, and what a perfect isomorphism scores."""

import itertools
import math
from typing import Any

import pytest
import torch
from moments import isomorphic_backbone
from test_images import smooth

from ti_backbones import decoder, images, o2, objective
from ti_backbones.backbone import TIBackbone
from ti_backbones.compare.contrastive import nt_xent
from ti_backbones.objective import PRESETS, Objective, TIObjective


def uniforms(n, seed=0):
    return torch.rand(n, objective.UNIFORMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle_of(u):
    return u.double() * 2 * math.pi


def test_paper_plan_has_the_fourteen_views():
    """TI-Net, arXiv 2502.12535: the list of views, behind one random base element."""
    u = uniforms(6)
    a1, a2, b1, b2 = (angle_of(u[:, i]) for i in range(2, 6))
    zero, base = torch.zeros(6), o2.from_uniform(u[:, 0], u[:, 1])
    expected = [
        *((False, zero), (True, zero), (False, a1), (True, a2), (False, b1), (True, b2)),
        *((True, b1), (False, b2), (True, -a1), (False, a1 + b1), (True, b2 - a1)),
        *((False, -a2), (True, a2 + b1), (False, b2 - a2)),
    ]
    plan = objective.paper_plan(u)
    assert len(plan.elements) == 14
    for got, (flip, angle) in zip(plan.elements, expected, strict=True):
        wanted = o2.element(flip, angle, 6) @ base
        assert torch.allclose(o2.matrix(got), o2.matrix(wanted), atol=1e-9)
    assert len(plan.secondary) == 9


def test_every_constraint_of_a_plan_names_the_right_view():
    """g from view a, then h, arrives at view b: on the group itself."""
    u = uniforms(5)
    plan = objective.paper_plan(u)
    for a, g, h, b in plan.secondary:
        assert torch.allclose(o2.matrix(h @ g @ plan.elements[a]), o2.matrix(plan.elements[b]), atol=1e-9)


def test_pair_plan_views_are_independent_and_uniform():
    plan = objective.pair_plan(uniforms(20000))
    a, b = plan.elements
    for g in (a, b, b @ o2.inverse(a)):
        for k in (1, 2, 3):
            assert o2.matrix(g, k).mean(0).abs().max() < 0.03


def test_relative_error_and_floor_against_numpy_by_hand():
    p, t = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert objective.relative_error(p, t, torch.tensor(2.0)).item() == pytest.approx((4 + 9) / 2 / 2)
    hinge = objective.floor_hinge(torch.tensor([0.04, 4.0]), 0.5)
    assert hinge.item() == pytest.approx((0.5 - 0.2) / 2, abs=1e-4)
    z = torch.randn(50, 3)
    mean, variance = objective.moments(z)
    assert torch.allclose(mean, z.mean(0), atol=1e-6)
    assert torch.allclose(variance, z.var(0, unbiased=False), atol=1e-5)


def test_the_contrast_is_that_of_lightly():
    for temperature in (0.1, 0.5):
        a, b = torch.randn(2, 9, 12, dtype=torch.float64)
        theirs: Any = nt_xent()
        theirs.temperature = temperature
        expected = theirs(a, b)
        assert torch.allclose(objective.contrast(a, b, temperature), expected)
        assert torch.allclose(objective.contrast(3 * a, b / 7, temperature), expected), "only directions count"


def perfect(**options):
    ti = isomorphic_backbone()
    with torch.no_grad():  # the fixed point is the mean of uniform views
        ti.latent_transformer.momentum = 1e-9
        x = smooth(64, 64).mul(0.2).add(0.5).clamp(0, 1)
        for seed in range(8):
            view = images.view(o2.sample(64, torch.Generator().manual_seed(seed)), (x - 0.5) / 0.25)
            ti.latent_transformer.observe(ti(view))
    o = TIObjective(ti, decoder.PooledDecoder(ti.latent_dim, 32), Objective(**options), (0.5,) * 3, (0.25,) * 3)
    return o, x


def test_a_perfect_isomorphism_costs_nothing():
    o, x = perfect()
    with torch.no_grad():
        terms = o(x, uniforms(64))
    assert terms["ordinary"] < 0.01
    assert terms["gain"] > 0.99


def test_each_weight_scales_its_term():
    torch.manual_seed(0)
    names = ["reconstruction", "transformed", "ordinary", "contrast", "moving_floor", "latent_floor"]
    o, x = perfect(floor=5.0, contrast=0.3)
    o.ti.encoder.scale.data *= 0.1
    with torch.no_grad():
        terms = o(x, uniforms(64))
        assert all(terms[name] > 0 for name in names)
        expected = sum(getattr(o.objective, name) * terms[name] for name in names)
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_invariant_latents_cost_more_than_doing_nothing():
    """Large variance between images does not hide that nothing moves."""
    o, x = perfect()
    o.ti.encoder.forward_head = lambda f, pre_logits=True: f.mean((2, 3)).repeat(1, 9) * 100
    with torch.no_grad():
        terms = o(x, uniforms(64))
    assert terms["latent_floor"] == 0
    assert terms["ordinary"] > 1
    assert terms["gain"] < 0


def test_the_contrast_rewards_what_moves_with_its_own_image():
    """Isomorphic latents of different images have less than those whose transformer knows no rotation."""
    o, x = perfect(contrast=1.0)
    with torch.no_grad():
        isomorphic = o(x, uniforms(64))["contrast"]
        o.ti.latent_transformer.frequencies.zero_()
        assert isomorphic < o(x, uniforms(64))["contrast"] - 0.5


def test_moving_floor_sees_coordinates_that_do_not_move():
    o, x = perfect()
    with torch.no_grad():
        alive = o(x, uniforms(64))["moving_floor"]
        kept = o.ti.encoder.forward_head
        mask = torch.ones(27)
        mask[3:15] = 0  # half of the moving coordinates
        o.ti.encoder.forward_head = lambda f, pre_logits=True: kept(f) * mask
        dead = o(x, uniforms(64))["moving_floor"]
    assert dead > alive + 0.2


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_every_parameter(preset):
    torch.manual_seed(0)
    ti = TIBackbone("test_resnet", PRESETS[preset].latent)
    z, feature_map = ti.encode(torch.zeros(2, 3, 64, 64))
    kind = PRESETS[preset].decode
    d = decoder.PooledDecoder(z.shape[1], 32) if kind == "pooled" else decoder.MapDecoder(feature_map.shape[1], 32)
    o = TIObjective(ti, d, PRESETS[preset], (0.5,) * 3, (0.25,) * 3)
    terms = o(smooth(8, 64).mul(0.2).add(0.5).clamp(0, 1), uniforms(8))
    terms["loss"].backward()
    without = [n for n, p in o.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == ([] if PRESETS[preset].trains_transformer else ["ti.latent_transformer.weight"])
    assert all(torch.isfinite(v) for v in terms.values())


def test_nothing_is_asked_of_the_transformer_at_first():
    """Its terms count nothing, then more and more, then fully; where that begins, and only there, it is fitted."""
    w = Objective(alone=0.4)
    asked = [w.asked(step, 100) for step in range(100)]
    assert asked[:41] == [0.0] * 41
    assert asked[51:] == [1.0] * 49
    assert all(a < b for a, b in itertools.pairwise(asked[40:51]))
    assert [step for step in range(100) if w.begins(step, 100)] == [40]
    for never in (Objective(alone=0.0), Objective(latent="affine"), Objective(reconstruction=0.0)):
        assert {never.asked(step, 100) for step in range(100)} == {1.0}
        assert not any(never.begins(step, 100) for step in range(100))

    o, x = perfect(alone=0.4)
    torch.nn.init.orthogonal_(o.transformer.weight)
    pictures = (x * 255).byte()
    o.prepare(39, 100, lambda count: pytest.fail("it is not time to fit"))
    terms = o(x, uniforms(64))
    terms["loss"].backward()
    assert o.transformer.weight.grad is None
    drawn = o.objective.reconstruction * terms["reconstruction"] + o.objective.latent_floor * terms["latent_floor"]
    assert terms["loss"].item() == pytest.approx(drawn.item(), rel=1e-6)
    assert terms["gain"] < 0.5
    o.prepare(40, 100, lambda count: pictures[:count])
    with torch.no_grad():
        assert o(x, uniforms(64))["gain"] > 0.95, "the latents of this encoder obey a representation"
    o.prepare(60, 100, lambda count: pytest.fail("it is fitted once"))
    assert "transformed" in o(x, uniforms(64))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_loss_falls(preset):
    torch.manual_seed(0)
    ti = TIBackbone("test_resnet", PRESETS[preset].latent)
    z, feature_map = ti.encode(torch.zeros(2, 3, 32, 32))
    pooled = PRESETS[preset].decode == "pooled"
    d = decoder.PooledDecoder(z.shape[1], 16) if pooled else decoder.MapDecoder(feature_map.shape[1], 16)
    o = TIObjective(ti, d, PRESETS[preset], (0.5,) * 3, (0.25,) * 3).train()
    optimiser = torch.optim.AdamW(o.parameters(), 2e-3)
    x, losses = smooth(16, 32).mul(0.2).add(0.5).clamp(0, 1), []
    for step in range(40):
        terms = o(x, uniforms(16, step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        losses.append(terms["loss"].item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_colour_changes_what_the_encoder_sees_and_not_what_is_drawn():
    o, x = perfect(colour=0.4)
    _, inputs, targets = o.views(x, uniforms(64))
    still = perfect()[0].views(x, uniforms(64))
    for got, expected in zip(targets, still[2], strict=True):
        assert torch.equal(got, expected)
    assert not torch.allclose(torch.nn.functional.avg_pool2d(inputs[0], 2), targets[0])
    outside = ~images.disc_mask(64)
    assert bool((inputs[0][..., outside] == 0).all())
    assert torch.allclose(objective.recolour(x, uniforms(64)[:, :5], 0.0), x)


@pytest.mark.parametrize("side", [16, 32, 48, 112])
def test_decoders_draw_what_they_are_asked_for(side):
    z, drawn = torch.randn(2, 40), (2, 3, side, side)
    assert decoder.PooledDecoder(40, side)(z).shape == drawn
    for grid in (1, 4, 7):
        assert decoder.MapDecoder(40, side)(torch.randn(2, 40, grid, grid)).shape == drawn


@pytest.mark.parametrize("size", [32, 64, 96])
def test_targets_have_the_decoder_s_size_and_the_picture_s_mean(size):
    o, _ = perfect(frame="crop")
    _, inputs, targets = o.views(smooth(4, size).mul(0.2).add(0.5).clamp(0, 1), uniforms(4))
    for view, target in zip(inputs, targets, strict=True):
        assert target.shape == (4, 3, 32, 32)
        assert torch.allclose(view.mean((2, 3)), target.mean((2, 3)), atol=0.02)


def test_decoded_images_are_signed():
    drawn = decoder.PooledDecoder(16, 16)(torch.randn(8, 16))
    assert drawn.min() < 0 < drawn.max()


def test_decoder_size_is_checked():
    with pytest.raises(ValueError, match="cannot draw 100 pixels, no multiple of 16: take 96"):
        decoder.PooledDecoder(16, 100)
