"""The published weights: what is committed loads without a network, is what its card says, and meets its bars."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm.data
import torch
from safetensors.torch import load_file

from hub import overview
from ti_backbones import isomorphism
from ti_backbones.backbone import HALVED, TIBackbone
from ti_backbones.data import load_all, open_data
from ti_backbones.model_folder import LOADED, read_model_folder, read_recipe

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted(p.parent for p in overview.MODELS.glob("*/config.json"))
BUNDLED = ROOT / "ti_backbones" / "weights"

each_model = pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)


@each_model
def test_weights_are_small_and_load_by_name(folder: Path):
    assert {v.dtype for v in load_file(folder / LOADED[1]).values() if v.numel() >= HALVED} == {torch.float16}
    assert {v.dtype for v in load_file(folder / LOADED[2]).values()} <= {torch.float32, torch.bool, torch.int64}
    ti = TIBackbone.from_pretrained(folder.name).eval()
    encoder = timm.create_model(folder.name.partition(".")[0], pretrained=True).eval()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    x = torch.rand(2, *timm.data.resolve_model_data_config(encoder)["input_size"])
    with torch.no_grad():
        assert torch.equal(ti(x), encoder(x))


def test_all_of_them_together_are_small():
    assert sum(p.stat().st_size for p in overview.MODELS.rglob("*") if p.is_file()) <= 100e6
    for folder in BUNDLED.glob("*"):
        assert sum(p.stat().st_size for p in folder.iterdir()) <= 8e6
        for file in LOADED:
            assert (folder / file).read_bytes() == (overview.MODELS / folder.name / file).read_bytes()


@each_model
def test_the_card_is_what_is_measured(folder: Path):
    recipe = ROOT / "hub" / "recipes" / f"{folder.name}.toml"
    public = read_model_folder(folder, f"local-dir:hub/models/{folder.name}", recipe_file=recipe)
    assert (folder / "README.md").read_bytes() == public.files["README.md"]
    assert f"hub.assemble {folder.name} " in read_recipe(recipe).commands[-1]


@each_model
def test_the_certificate_meets_its_bars(folder: Path):
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["gain"] >= 0.7
    assert certificate["moving_share"] >= 0.3
    assert certificate["law_error"] <= 1e-5
    assert certificate["worst_angle_ratio"] <= 1.3


@pytest.mark.slow
@each_model
def test_the_certificate_is_found_again_on_other_images(folder: Path):
    ti = TIBackbone.from_pretrained(folder).eval()
    images = load_all(open_data("embedded?split=test"), ti.metadata["training"]["size"], 24).images
    certificate = isomorphism.certify_backbone(ti, images, angles=6)
    recorded = json.loads((folder / "certificate.json").read_text())
    assert certificate.gain == pytest.approx(recorded["gain"], abs=0.08)
    assert certificate.law_error <= 1e-5
