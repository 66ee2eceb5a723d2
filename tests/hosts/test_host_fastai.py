"""fastai: `create_timm_model` and `vision_learner` with a `ti_*` name."""

from __future__ import annotations

import pytest
import torch
from hosting import assert_trains, both, pictures, run_example
from torch.testing import assert_close


@pytest.mark.host("fastai")
@both
def test_create_timm_model_has_the_published_weights_and_trains(base, published):
    from fastai.vision.learner import create_timm_model

    model, cfg = create_timm_model(f"ti_{base}", 3, pretrained=True)
    x = pictures()
    body = model[0].eval()
    wanted = published.forward_features(x) if body.needs_pool else published(x)
    assert_close(body(x), wanted)
    assert tuple(cfg["mean"]) == tuple(published.pretrained_cfg["mean"])
    model.train()
    assert model(x).shape == (2, 3)
    assert_trains(model, torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 2])))


@pytest.mark.host("fastai")
@both
def test_learner_fits_saves_and_loads(base, hub, tmp_path):
    from fastai.vision.all import DataLoaders, vision_learner
    from torch.utils.data import DataLoader

    data = [(image, i % 2) for i, image in enumerate(pictures(8))]
    loaders = DataLoaders(DataLoader(data, batch_size=4, drop_last=True), DataLoader(data, batch_size=4))
    options = {"n_out": 2, "loss_func": torch.nn.CrossEntropyLoss(), "normalize": False, "path": tmp_path}
    learner = vision_learner(loaders, f"ti_{base}", pretrained=True, **options)
    learner.unfreeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-3)
    learner.save("hand")

    back = vision_learner(loaders, f"ti_{base}", pretrained=False, **options).load("hand")
    x = pictures()
    assert_close(back.model.eval()(x), learner.model.eval()(x), rtol=0, atol=0)


@pytest.mark.host("fastai")
def test_example_runs(hub, tmp_path):
    assert "trained for one epoch" in run_example("with_fastai.py", tmp_path)
