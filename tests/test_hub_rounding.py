"""Weights that are stored in half precision keep the features."""

from __future__ import annotations

from pathlib import Path

import torch

from hub.rounding import rounded
from ti_backbones.backbone import HALVED, TIBackbone
from ti_backbones.data import load_all, open_data


@torch.no_grad()
def test_running_means_take_away_what_rounding_shifts(tmp_path: Path):
    torch.manual_seed(0)
    ti = TIBackbone("efficientnet_lite0")
    images, others = (
        load_all(open_data(f"embedded?split={s}"), 64, 48).images.float() / 255 for s in ("train", "test")
    )
    for _ in range(20):
        ti(images)  # in training mode: the BatchNorms come to know the data
    z = ti.eval()(others)
    before = {k: v.clone() for k, v in ti.state_dict().items()}

    def stored(model: TIBackbone, name: str) -> TIBackbone:
        model.save_pretrained(tmp_path / name, half=True)
        return TIBackbone.from_pretrained(tmp_path / name).eval()

    corrected = rounded(ti, images)
    ours, plain = stored(corrected, "corrected"), stored(ti, "plain")
    assert (ours(others) - z).norm() < 0.7 * (plain(others) - z).norm()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, corrected.state_dict()[key])  # rounded once
        if not key.endswith("running_mean"):
            assert torch.equal(value, plain.state_dict()[key]), key
    assert any(v.numel() >= HALVED for v in before.values())
    assert all(torch.equal(v, before[k]) for k, v in ti.state_dict().items())
    hooks = [len(m._forward_pre_hooks) for model in (ti, corrected) for m in model.modules()]
    assert not any(hooks)


@torch.no_grad()
def test_without_batch_norm_rounding_is_all():
    ti = TIBackbone("test_vit").eval()
    x = torch.rand(2, 3, 160, 160)
    for key, value in rounded(ti, x).encoder.state_dict().items():
        own = ti.encoder.state_dict()[key]
        assert torch.equal(value, own.half().float() if own.numel() >= HALVED else own)
