"""The certificate, against latents whose answers are known."""

import copy
import json
import math

import pytest
import torch
from moments import isomorphic_backbone
from PIL import Image
from test_images import smooth

from ti_backbones import images, isomorphism, latent, o2
from ti_backbones.data import load_all, open_data


@pytest.fixture(scope="module")
def pictures():
    """Real test images (64, 3, 64, 64) uint8."""
    return load_all(open_data("embedded?split=test"), 64, 64).images


def test_an_isomorphic_encoder_is_certified_as_one(pictures):
    """Convention of images, points and irreps meet: moments move by ρ to interpolation error."""
    certificate = isomorphism.certify_backbone(isomorphic_backbone(), pictures, angles=12)
    assert certificate.gain > 0.99
    assert certificate.ordinary_error < 0.01
    assert certificate.secondary_error < 0.01
    assert certificate.law_error < 1e-5
    assert certificate.inverse_error < 1e-5
    assert certificate.moving_share > 0.1


def test_another_convention_fails_the_certificate(pictures):
    """The certificate can fail: with clockwise angles, or doing nothing, the gain is gone."""
    ti = isomorphic_backbone()
    with torch.no_grad():  # swap x and y of each pair: rotations turn the other way
        order = torch.arange(24).unflatten(0, (12, 2)).flip(1).flatten()
        ti.latent_transformer.weight.copy_(ti.latent_transformer.weight[order])
    assert isomorphism.certify_backbone(ti, pictures, angles=12).gain < 0.5


def orbit(n, angles, dim, blocks, seed=0):
    """Latents (2 angles, n, dim) of an exact orbit, and the representation they obey."""
    rng = torch.Generator().manual_seed(seed)
    transformer = latent.O2Representation(dim, blocks=blocks)
    with torch.no_grad():
        transformer.weight.copy_(torch.randn(transformer.rank, dim, generator=rng))
        transformer.mean.copy_(torch.randn(dim, generator=rng))
        transformer.eval()
        z = torch.randn(n, dim, generator=rng) + transformer.mean
        elements = isomorphism.grid(angles)
        return torch.stack([transformer(z, elements[[k] * n]) for k in range(2 * angles)]), transformer


def test_moving_share_equals_the_share_of_moving_coordinates():
    """White latents with rank r of D moving: Var_g is r / D of the variance, gain 1, errors 0."""
    latents, transformer = orbit(4096, 12, 20, (1, 2, 1))
    certificate = isomorphism.certify(transformer, latents)
    assert certificate.moving_share == pytest.approx(7 / 20, abs=0.02)
    assert certificate.gain == pytest.approx(1, abs=1e-6)
    assert certificate.effective_rank == pytest.approx(20, rel=0.02)


def test_invariant_latents_show_no_moving_share():
    latents = torch.randn(1, 100, 16).expand(24, -1, -1)
    certificate = isomorphism.certify(latent.O2Representation(16, 8), latents)
    assert certificate.moving_share < 1e-6
    assert certificate.gain < 0  # it moves what stands still


def test_effective_rank_of_known_spectra():
    z = torch.randn(20000, 6) * torch.tensor([1.0, 1, 1, 1, 0, 0])
    assert isomorphism.effective_rank(z) == pytest.approx(4, rel=0.01)
    assert isomorphism.effective_rank(torch.randn(50, 1) @ torch.randn(1, 8)) == pytest.approx(1, abs=1e-3)


def test_law_error_tells_an_inexact_transformer():
    torch.manual_seed(0)
    inexact = latent.LowRankAffine(16, 8)
    for layer in inexact.up:
        torch.nn.init.normal_(layer.weight)
    law, back = isomorphism.law_errors(inexact, torch.randn(64, 16))
    assert law > 0.1
    assert back > 0.1


@pytest.mark.parametrize("blocks", [(0, 3, 2), (3, 1, 0, 2), (2, 2, 2, 1, 1)])
def test_a_representation_fitted_afterwards_finds_the_hidden_one(blocks):
    latents, _ = orbit(400, 12, 16, blocks, seed=1)
    for steps in (0, 60):  # the Fourier transform finds it; the optimiser does not lose it
        fitted = isomorphism.fit_representation(latents[:, :300], blocks=blocks, steps=steps)
        assert isomorphism.certify(fitted, latents[:, 300:]).gain > 0.99


def test_a_trained_representation_settles_on_a_finished_encoder(pictures):
    """In its place and with its blocks: one that training left slightly turned finds back to the exact one."""
    ti = isomorphic_backbone()
    transformer = ti.latent_transformer
    blocks = transformer.blocks
    with torch.no_grad():
        weight = transformer.weight
        weight += 0.3 * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=torch.manual_seed(0))
    before = isomorphism.certify_backbone(ti, pictures, angles=12)
    isomorphism.settle(ti, True, pictures, "disc")
    after = isomorphism.certify_backbone(ti, pictures, angles=12)
    assert before.gain < 0.95
    assert after.gain > 0.98
    assert ti.latent_transformer is transformer
    assert transformer.blocks == blocks


def test_what_is_no_representation_settles_only_where_it_was_not_trained(pictures):
    ti = isomorphic_backbone()
    ti.latent_transformer = affine = latent.make("affine", ti.latent_dim, rank=4)
    before = copy.deepcopy(affine.state_dict())
    isomorphism.settle(ti, True, pictures, "disc")
    assert ti.latent_transformer is affine
    assert all(torch.equal(before[k], v) for k, v in affine.state_dict().items())
    isomorphism.settle(ti, False, pictures, "disc")
    assert isomorphism.certify_backbone(ti, pictures, angles=12).gain > 0.95


def test_a_fitted_representation_leaves_alone_what_stands_still():
    """One plane of frequency 1 and two sign blocks among strong invariant content, where the default has 16 planes."""
    moving, _ = orbit(400, 12, 5, (2, 1), seed=1)
    still = 5 * torch.randn(1, 400, 27).expand(24, -1, -1)
    mixing = torch.linalg.qr(torch.randn(32, 32))[0]
    latents = torch.cat([moving, still], 2) @ mixing
    latents = latents + 0.01 * torch.randn_like(latents)
    fitted = isomorphism.fit_representation(latents[:, :300])
    assert fitted.blocks[:2] == (2, 1)
    assert isomorphism.certify(fitted, latents[:, 300:]).gain > 0.95
    moves_all = isomorphism.fit_representation(latents[:, :300], rank=16)
    assert isomorphism.certify(moves_all, latents[:, 300:]).gain < 0


def test_table_json_and_figure(pictures, tmp_path):
    certificate = isomorphism.certify_backbone(isomorphic_backbone(), pictures[:8], data="test", angles=8)
    read = json.loads(certificate.to_json())
    assert read["angles_deg"] == pytest.approx([45.0 * i for i in range(8)])
    assert len(read["error_rotated"]) == len(read["error_flipped"]) == 8
    assert read["error_rotated"][0] == pytest.approx(0, abs=1e-9)  # T_e = 1
    table = certificate.table()
    assert f"{certificate.gain:.3f}" in table
    assert "270°" in table
    certificate.figure(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] > 500


# --- What the corners tell of the angle ---------------------------------------------------------------------------


def corner_r2(x, mask):
    """R² of cos kθ, sin kθ (k = 1..4) and of the flip, by ridge regression on pixels of `mask`; test half is new."""
    rng = torch.Generator().manual_seed(0)
    x = x.repeat(4, 1, 1, 1)
    g = o2.sample(len(x), rng)
    target = torch.cat([o2.matrix(g, k)[:, :, 1] for k in range(1, 5)] + [g.flip.double()[:, None]], 1)
    results = {}
    for frame, views in (
        ("disc", images.view(g, x, frame="disc")),
        ("crop", images.view(g, x, frame="crop")),
        ("zeros", images.act(g, x)),
    ):
        f = views[..., mask].flatten(1).double()
        f = torch.cat([f, f.abs(), torch.ones(len(f), 1)], 1)
        half = len(f) // 2
        gram = f[:half].mT @ f[:half] + 1.0 * torch.eye(f.shape[1])
        predicted = f[half:] @ torch.linalg.solve(gram, f[:half].mT @ (target[:half] - target[:half].mean(0)))
        residual = (predicted + target[:half].mean(0) - target[half:]).square().sum(0)
        results[frame] = (1 - residual / (target[half:] - target[half:].mean(0)).square().sum(0)).max().item()
    return results


def test_corners_tell_nothing_of_the_angle():
    """Chance for both frames; zero-filled corners, which are not used, give the angle away."""
    rng = torch.Generator().manual_seed(1)
    noise = torch.nn.functional.avg_pool2d(torch.randn(600, 1, 36, 36, generator=rng), 5, 1)  # no up or down in it
    r2 = corner_r2(noise, ~images.disc_mask(32))
    print("R2 of the angle from the corners:", {k: round(v, 3) for k, v in r2.items()})
    assert r2["zeros"] > 0.5
    assert r2["disc"] <= 0
    assert r2["crop"] < 0.02


def test_corners_of_real_images_tell_nothing_in_the_default_frame():
    """Real scenes have an up and a down; the disc's corners are constant all the same."""
    x = load_all(open_data("embedded?split=test"), 32, 300).images.float() / 255 - 0.5
    r2 = corner_r2(x.mean(1, keepdim=True), ~images.disc_mask(32))
    print("R2 of the angle from the corners, real images:", {k: round(v, 3) for k, v in r2.items()})
    assert r2["disc"] <= 0


def test_grid_is_closed_under_composition():
    elements = isomorphism.grid(12)
    table = {(bool(f), round(math.degrees(a)) % 360) for f, a in zip(elements.flip, elements.angle, strict=True)}
    for i in range(24):
        for j in range(24):
            c = elements[[i]] @ elements[[j]]
            assert (bool(c.flip), round(math.degrees(c.angle.item())) % 360) in table


def test_orbit_latents_equal_a_plain_loop():
    ti, x = isomorphic_backbone(), (smooth(5, 32).mul(0.2).add(0.5).clamp(0, 1) * 255).byte()
    mean, std = isomorphism.normalisation(ti.encoder)
    elements = isomorphism.grid(3)
    got = isomorphism.orbit_latents(ti, x, elements, "disc", mean, std, batch=2)
    for k in range(6):
        view = images.view(elements[[k] * 5], (x.float() / 255 - 0.5) / 0.25)
        assert torch.allclose(got[k], ti(view), atol=1e-5)
