"""ONNX Runtime: a ti_* encoder as an ONNX file, run without PyTorch.

python with_onnxruntime.py
"""

import tempfile
from pathlib import Path

import onnxruntime
import timm
import torch

from ti_backbones import TIBackbone
from ti_backbones.export import ExportConfig, export


def main() -> None:
    """Export as `ti-backbones export FOLDER --to onnx` does, run another batch, compare with timm."""
    images = torch.rand(3, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        TIBackbone("resnet18").save_pretrained(folder)
        export(ExportConfig(folder, to="onnx", out=Path(folder) / "encoder.onnx"))
        session = onnxruntime.InferenceSession(Path(folder) / "encoder.onnx", providers=["CPUExecutionProvider"])
        encoder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    (z,) = session.run(None, {"images": images.numpy()})
    difference = (torch.from_numpy(z) - encoder(images)).abs().max()
    print(f"latent {z.shape}, largest difference to PyTorch {difference:.1e}")


if __name__ == "__main__":
    main()
