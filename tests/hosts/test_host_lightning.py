"""Lightning: `Trainer` trains a `ti_*` encoder, and its checkpoint brings the same one back."""

from __future__ import annotations

import pytest
import torch
from hosting import both, constants, pictures, run_example
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset


@pytest.mark.host("lightning")
@both
def test_trainer_trains_and_its_checkpoint_comes_back(base, published, tmp_path):
    import lightning

    Regressor = constants("with_lightning.py")["HandRegressor"]
    model, x = Regressor(f"ti_{base}", pretrained=True), pictures(4)
    assert_close(model.encoder.eval()(x), published(x))
    loader = DataLoader(TensorDataset(x, torch.rand(4, 21, 2)), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.fit(model.train(), loader)
    assert trainer.global_step == 4
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.9 * len(before)

    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    back = Regressor.load_from_checkpoint(path, pretrained=False).eval()
    assert_close(back(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.host("lightning")
def test_example_runs(hub, tmp_path):
    assert "joints (2, 21, 2)" in run_example("with_lightning.py", tmp_path)
