"""lightly: SimCLR's head and loss on a `ti_*` encoder; MAE's masked transformer around a `ti_*` ViT."""

from __future__ import annotations

import pytest
import timm
import torch
from hosting import VIT, assert_trains, both, constants, pictures, run_example
from torch.testing import assert_close


@pytest.mark.host("lightly")
@both
def test_simclr_trains_and_comes_back(base, published, tmp_path):
    from lightly.loss import NTXentLoss

    SimCLR = constants("with_lightly.py")["SimCLR"]
    model, x = SimCLR(f"ti_{base}", pretrained=True), pictures(4)
    assert_close(model.encoder.eval()(x), published(x))
    model.train()
    assert_trains(model, NTXentLoss()(model(x), model(x.flip(-1))))

    torch.save(model.eval().state_dict(), tmp_path / "weights.pth")
    back = SimCLR(f"ti_{base}", pretrained=False).eval()
    back.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert_close(back(x), model(x), rtol=0, atol=0)


@pytest.mark.host("lightly")
@pytest.mark.parametrize("base", [pytest.param(VIT, id="ViT")])
def test_masked_transformer_takes_a_published_vit(base, published):
    from lightly.models.modules import MaskedVisionTransformerTIMM

    vit = timm.create_model(f"ti_{base}", pretrained=True)
    # unless told to skip that, lightly gives a ViT fresh weights
    model = MaskedVisionTransformerTIMM(vit, weight_initialization="skip", pos_embed_initialization="skip").eval()
    x = pictures()
    assert_close(model.encode(x), published.forward_features(x))
    kept = torch.arange(50).repeat(2, 1)
    tokens = model.train().encode(x, idx_keep=kept)
    assert tokens.shape == (2, 50, 192)
    tokens.square().mean().backward()
    assert all(p.grad is not None for n, p in model.vit.blocks.named_parameters())


@pytest.mark.host("lightly")
def test_example_runs(hub, tmp_path):
    assert "NT-Xent loss" in run_example("with_lightly.py", tmp_path)
