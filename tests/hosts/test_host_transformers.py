"""transformers: `AutoModel` on a model folder, without this package; `TimmBackbone` with `ti_*` names."""

from __future__ import annotations

import json

import pytest
import torch
from hosting import assert_trains, both, feature_maps, pictures, run_example, run_python
from torch.testing import assert_close

STAGES = {"resnet18": [1, 2, 3, 4], "vit_tiny_patch16_224": [5, 11]}

WITHOUT_THIS_PACKAGE = """
import sys, torch
from transformers import AutoModel, AutoModelForImageClassification
model = AutoModel.from_pretrained(sys.argv[1]).eval()
torch.save(model(torch.load(sys.argv[2])).pooler_output.detach(), sys.argv[3])
assert "ti_backbones" not in sys.modules
"""


@pytest.mark.host("transformers")
@both
def test_auto_model_gives_the_latent_without_this_package(base, hub, published, tmp_path):
    x = pictures()
    torch.save(x, tmp_path / "x.pt")
    run_python(["-c", WITHOUT_THIS_PACKAGE, hub / f"ti_{base}", tmp_path / "x.pt", tmp_path / "z.pt"], tmp_path)
    assert_close(torch.load(tmp_path / "z.pt"), published(x))


@pytest.mark.host("transformers")
@both
def test_auto_model_trains_and_comes_back(base, hub, published, tmp_path):
    from transformers import AutoModel

    model, x = AutoModel.from_pretrained(hub / f"ti_{base}"), pictures()
    assert type(model).__name__ == "TimmWrapperModel"
    output = model.train()(x)
    assert_trains(model, output.pooler_output.square().mean())

    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * p.grad)
    model.eval().save_pretrained(tmp_path / "saved")
    back = AutoModel.from_pretrained(tmp_path / "saved").eval()
    assert_close(back(x).pooler_output, model(x).pooler_output, rtol=0, atol=0)
    assert not torch.equal(back(x).pooler_output, published(x))


@pytest.mark.host("transformers")
@both
def test_a_classifier_starts_from_the_folders_weights(base, hub, published):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(hub / f"ti_{base}", num_labels=5).eval()
    x = pictures()
    assert model(x).logits.shape == (2, 5)
    with torch.no_grad():
        z = model.timm_model.forward_head(model.timm_model.forward_features(x), pre_logits=True)
    assert_close(z, published(x))


@pytest.mark.host("transformers_backbone")
@both
def test_backbone_gives_timms_feature_maps(base, published):
    from transformers import TimmBackbone

    model = TimmBackbone.from_pretrained(f"ti_{base}", out_indices=STAGES[base]).eval()
    x = pictures()
    expected = feature_maps(published, x, STAGES[base])
    maps = model(x).feature_maps
    assert len(maps) == len(STAGES[base]) == len(model.channels)
    for found, wanted, channels in zip(maps, expected, model.channels, strict=True):
        assert_close(found, wanted)
        assert found.shape[1] == channels


@pytest.mark.host("transformers_backbone")
@both
def test_backbone_trains_and_comes_back(base, hub, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoConfig, TimmBackbone

    model = TimmBackbone.from_pretrained(f"ti_{base}", out_indices=STAGES[base])
    x = pictures()
    assert_trains(model.train(), sum(m.square().mean() for m in model(x).feature_maps))

    model.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["backbone"] == f"ti_{base}"
    back = TimmBackbone(AutoConfig.from_pretrained(tmp_path)).eval()
    back.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    for found, wanted in zip(back(x).feature_maps, model(x).feature_maps, strict=True):
        assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.host("transformers")
def test_example_runs(hub, tmp_path):
    said = run_example("with_transformers.py", tmp_path)
    assert "latent (2, 512)" in said
