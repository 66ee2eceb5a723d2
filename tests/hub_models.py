"""Model folders as pretraining and evaluating leave them, for the tests of publishing and loading."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ti_backbones import isomorphism
from ti_backbones.backbone import TIBackbone
from ti_backbones.pose.data import InMemory
from ti_backbones.pose.results import Predictions, Results, evaluate_predictions

HOME = "/home/somebody/my hands"
RECIPE = """
license = "apache-2.0"
commands = ["ti-backbones pretrain --model test_resnet --data embedded --out runs/a"]
data = "the embedded set, CC0"
time = "5 min on two cores"
"""


def model_folder(folder: Path, base: str = "test_resnet", seed: int = 0, figure: bool = True) -> TIBackbone:
    """A certified model of random weights in its folder; what was recorded names local paths."""
    torch.manual_seed(seed)
    ti = TIBackbone(base).eval()
    side = ti.encoder.pretrained_cfg["input_size"][-1]
    images = torch.randint(0, 255, (3, 3, side, side), dtype=torch.uint8)
    certificate = isomorphism.certify_backbone(
        ti, images, data=f"12 images of folder:{HOME} kept out of training", angles=4
    )
    ti.metadata = {
        "training": {"data": f"folder:{HOME}", "init": "runs/before/model.safetensors", "size": side},
        "certificate": certificate.summary() | {"data": certificate.data, "images": certificate.images},
    }
    ti.save_pretrained(folder)
    (folder / "certificate.json").write_text(certificate.to_json())
    if figure:
        certificate.figure(folder / "certificate.png")
    (folder / "training").mkdir(exist_ok=True)
    torch.save({"step": 1}, folder / "training" / "checkpoint.pt")
    return ti


def pose_results(data: str = f"dexycb:{HOME}?split=s0/test") -> Results:
    """Errors of three hands, as `evaluate` measures them."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    joints = 40 * random(3, 21, 3) + torch.tensor([0.0, 0.0, 600.0])
    hands = {
        "joints": joints,
        "valid": torch.ones(3, 21, dtype=torch.bool),
        "pixels": torch.full((3, 21, 2), torch.nan),
    }
    predicted = joints - joints[:, :1] + 5 * random(3, 21, 3)
    names = [f"{HOME}/{i}.jpg" for i in range(3)]
    right = torch.ones(3, dtype=torch.bool)
    made = Predictions(predicted, InMemory(hands, None), names, [{}] * 3, right)  # type: ignore[arg-type]
    return evaluate_predictions(made, data)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Copies: what `load_file` gives lies in the file, which is to be overwritten."""
    return {k: v.clone() for k, v in load_file(path).items()}
