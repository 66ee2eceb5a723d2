"""segmentation_models_pytorch: `tu-ti_*` encoders, with the decoder that takes each kind of model."""

from __future__ import annotations

import pytest
import torch
from hosting import CNN, assert_trains, both, pictures, run_example
from torch.testing import assert_close


def segmenter(base: str, weights: bool | None):
    import segmentation_models_pytorch as smp

    decoder = smp.Unet if base == CNN else smp.DPT
    return decoder(encoder_name=f"tu-ti_{base}", encoder_weights=weights, classes=2)


@pytest.mark.host("smp")
@both
def test_encoder_has_the_published_weights(base, published):
    model = segmenter(base, weights=True)
    expected = published.state_dict()
    found = model.encoder.model.state_dict()
    assert len(set(found) & set(expected)) == len(expected)
    for name, wanted in expected.items():
        assert_close(found[name], wanted, rtol=0, atol=0)


@pytest.mark.host("smp")
@both
def test_segments_trains_and_comes_back(base, hub, tmp_path):
    import segmentation_models_pytorch as smp

    model, x = segmenter(base, weights=True), pictures()
    masks = (torch.rand(2, 224, 224) > 0.5).long()
    loss = smp.losses.DiceLoss(mode="multiclass")(model(x), masks)
    # DPT reads the ViT's blocks, not what its last norm makes of them
    unused = [] if base == CNN else ["encoder.model.norm.weight", "encoder.model.norm.bias"]
    assert_trains(model, loss, unused)

    model.eval().save_pretrained(tmp_path / "saved")
    back = smp.from_pretrained(tmp_path / "saved").eval()
    assert type(back) is type(model)
    assert back(x).shape == (2, 2, 224, 224)
    assert_close(back(x), model(x), rtol=0, atol=0)


@pytest.mark.host("smp")
def test_example_runs(hub, tmp_path):
    assert "mask (2, 2, 224, 224)" in run_example("with_segmentation_models.py", tmp_path)
