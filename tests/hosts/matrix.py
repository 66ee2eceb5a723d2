"""The host matrix: a table of the README, made of what the host tests found.

python tests/hosts/matrix.py   prints the table; `python -m hub.readme` puts it into the README
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
EXTRA = "pip install 'ti-backbones[hosts]'"


@dataclass(frozen=True)
class Host:
    """A third-party program that takes a backbone.

    Attributes:
        title: its name and the entry point that is used.
        packages: distributions that must be installed; the first is the host, whose version is shown.
        models: kinds of model that it takes.
        installation: how to get it.
        clash: distributions that it does not import beside, once all of them are installed.
    """

    title: str
    packages: tuple[str, ...]
    models: tuple[str, ...] = ("CNN", "ViT")
    installation: str = EXTRA
    clash: tuple[str, ...] = ()


# mmpretrain 1.2.0 imports its language models once it finds both, and they fail on transformers 5
LANGUAGE = ("transformers", "pycocotools")

HOSTS = {
    "timm_script": Host("timm's own `train.py`, unchanged: `python -m ti_backbones.run`", ("timm",)),
    "torchvision": Host("torchvision `FeaturePyramidNetwork`", ("torchvision",)),
    "torchvision_keypoints": Host("torchvision `KeypointRCNN` on `BackboneWithFPN`", ("torchvision",), ("CNN",)),
    "onnxruntime": Host("ONNX Runtime", ("onnxruntime", "onnxscript")),
    "transformers": Host("transformers `AutoModel` / `TimmWrapperModel`, without this package", ("transformers",)),
    "transformers_backbone": Host("transformers `TimmBackbone`", ("transformers",)),
    "smp": Host("segmentation_models_pytorch `tu-ti_*`: `Unet` (CNN), `DPT` (ViT)", ("segmentation-models-pytorch",)),
    "lightning": Host("Lightning `Trainer`", ("lightning",)),
    "lightly": Host("lightly `SimCLRProjectionHead`, `MaskedVisionTransformerTIMM`", ("lightly",)),
    "fastai": Host("fastai `create_timm_model`, `vision_learner`", ("fastai",)),
    "mmpretrain": Host("mmpretrain `TIMMBackbone`", ("mmpretrain", "mmengine"), clash=LANGUAGE),
    "mmengine": Host("mmengine `Runner` with `custom_imports`", ("mmengine", "mmpretrain"), clash=LANGUAGE),
    "mmpretrain_script": Host(
        "mmpretrain's `tools/train.py`, unchanged: `python -m ti_backbones.run`", ("mmpretrain",), clash=LANGUAGE
    ),
    "mmpose": Host(
        "mmpose hand config with a `ti_*` backbone", ("mmpose", "mmcv"), installation="see tests/hosts/mmpose.md"
    ),
    "mmpose_pth": Host(
        "mmpose hand config, its own ResNet, exported `.pth`",
        ("mmpose", "mmcv"),
        ("CNN",),
        installation="see tests/hosts/mmpose.md",
    ),
}


def table(results: dict) -> str:
    """The matrix in Markdown.

    Args:
        results: by host, `versions` of its packages and the outcome of its `tests`, as `conftest.py` writes them.
    """
    lines = ["| host | version | CNN | ViT | beside |", "|---|---|---|---|---|"]
    for name, host in HOSTS.items():
        found = results.get(name, {"versions": {}, "tests": {}})
        versions = found["versions"]
        cells = [_cell(found["tests"], kind) if kind in host.models else "n/a" for kind in ("CNN", "ViT")]
        beside = ", ".join(f"{package} {versions[package]}" for package in ("torch", "timm") if package in versions)
        lines.append(f"| {host.title} | {versions.get(host.packages[0], '')} | {' | '.join(cells)} | {beside} |")
    return "\n".join(lines)


def _cell(tests: dict[str, str], kind: str) -> str:
    """The outcome for one kind of model: of the tests that name it, and of those that name none."""
    kinds = {name: set(re.findall(r"CNN|ViT", name.partition("[")[2])) for name in tests}
    named = [outcome for name, outcome in tests.items() if kind in kinds[name]]
    outcomes = [*(named or ["skipped"]), *(outcome for name, outcome in tests.items() if not kinds[name])]
    if "failed" in outcomes:
        return "**fails**"
    if "skipped" in outcomes:
        return "not run"
    return f"passes ({len(outcomes)} tests)" if len(outcomes) > 1 else "passes"


if __name__ == "__main__":
    print(table(json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}))
