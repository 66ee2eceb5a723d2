"""ONNX Runtime: a published encoder, exported, gives the same latents for any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hosting import both, pictures, run_example
from torch.testing import assert_close

from ti_backbones.export import ExportConfig, export


@pytest.mark.host("onnxruntime")
@both
def test_runtime_gives_the_latent(base, published, tmp_path):
    import onnxruntime

    path = tmp_path / "encoder.onnx"
    export(ExportConfig(f"ti_{base}", to="onnx", out=path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for count in (1, 5):
        (found,) = session.run(None, {entry.name: pictures(count).numpy()})
        with torch.no_grad():
            wanted = published(pictures(count))
        assert found.dtype == np.float32
        assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.host("onnxruntime")
def test_example_runs(hub, tmp_path):
    assert "largest difference" in run_example("with_onnxruntime.py", tmp_path)
