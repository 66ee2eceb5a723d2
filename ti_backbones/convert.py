"""Other libraries' checkpoints as timm-keyed model folders.

torchvision, mmpretrain and mmpose, lightly, SimCLR, MoCo and PeCLR style, MAE, EfficientNet-PyTorch: what differs
between them is a prefix before the encoder's keys, and a few ways to name a network's parts. Every combination is
tried, and the one that fits the timm model's keys and shapes is taken; nothing is guessed beyond that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from .backbone import create_encoder, encoder_files, read_weights
from .checkpoint import write_files
from .errors import InputError

REPORT_FILE = "conversion.json"

# parts of a ResNet in the order of nn.Sequential(*resnet.children()), as lightly and SimCLR code keep them
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_TORCHVISION_VIT = (
    (r"class_token$", "cls_token"),
    (r"conv_proj\.", "patch_embed.proj."),
    (r"encoder\.pos_embedding$", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
)
_MMPRETRAIN_VIT = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"^ln1\.", "norm."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)


def _as_is(key: str) -> str:
    return key


def _from_sequential(key: str) -> str:
    first, dot, rest = key.partition(".")
    return _SEQUENTIAL.get(first, first) + dot + rest


def _substitution(rules: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    def rename(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return rename


LAYOUTS: dict[str, Callable[[str], str]] = {
    "timm's own names": _as_is,
    "a ResNet as nn.Sequential": _from_sequential,
    "torchvision's ViT": _substitution(_TORCHVISION_VIT),
    "mmpretrain's ViT": _substitution(_MMPRETRAIN_VIT),
}


EFFICIENTNET = "EfficientNet-PyTorch's"
EFFICIENTNET_EPS = 1e-3  # of its BatchNorms, as TensorFlow had it


def efficientnet_names(own: Iterable[str]) -> Callable[[str], str]:
    """From the names of EfficientNet-PyTorch, which numbers its blocks through, to a timm EfficientNet's own."""
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    own = list(own)
    blocks = dict.fromkeys(found[0] for k in own if (found := re.match(r"blocks\.\d+\.\d+\.", k)))
    for number, block in enumerate(blocks):
        widens = f"{block}conv_pwl.weight" in own
        parts = ["_expand_conv conv_pw", "_bn0 bn1", "_depthwise_conv conv_dw", "_bn1 bn2", "_project_conv conv_pwl"]
        parts += ["_bn2 bn3"]
        if not widens:
            parts = ["_depthwise_conv conv_dw", "_bn1 bn1", "_project_conv conv_pw", "_bn2 bn2"]
        for part in [*parts, "_se_reduce se.conv_reduce", "_se_expand se.conv_expand"]:
            theirs, ours = part.split()
            modules[f"_blocks.{number}.{theirs}"] = block + ours

    def rename(key: str) -> str:
        module, dot, tensor = key.rpartition(".")
        return modules.get(module, module) + dot + tensor

    return rename


@dataclass
class ConvertConfig:
    """Convert a checkpoint of another library into a timm-keyed model folder, safetensors only."""

    source: Path
    """the checkpoint: .pth, .pt, .ckpt (read with weights_only) or .safetensors"""
    model: str
    """the timm architecture that it holds, such as resnet50"""
    out: Path
    """folder to write: model.safetensors, config.json and conversion.json"""


@dataclass(frozen=True)
class Conversion:
    """How the keys of a checkpoint became those of a timm model.

    Attributes:
        layout, prefix: what was recognised. taken: timm key -> the checkpoint's. left: keys not of the encoder.
        state: the tensors by timm key.
    """

    layout: str
    prefix: str
    taken: dict[str, str]
    left: list[str]
    state: dict[str, Tensor]

    def table(self) -> str:
        """Every key, one a line."""
        lines = [f"{new:44s} <- {old}  {tuple(self.state[new].shape)}" for new, old in self.taken.items()]
        lines += [f"{'(left out)':44s} <- {old}" for old in self.left]
        kind = f"{self.layout}{f', after {self.prefix!r}' if self.prefix else ''}"
        return "\n".join([*lines, f"{len(self.taken)} tensors taken, {len(self.left)} left out ({kind})"])


def prefixes(keys: list[str], depth: int = 4) -> list[str]:
    """Every beginning of the keys that ends in a dot, up to `depth` parts, and none at all; the shortest first."""
    found = {""}
    for key in keys:
        parts = key.split(".")
        found |= {".".join(parts[:n]) + "." for n in range(1, min(depth, len(parts) - 1) + 1)}
    return sorted(found, key=lambda p: (len(p), p))


def recognise(state: dict[str, Tensor], own: dict[str, Tensor], name: str, source: Path) -> Conversion:
    """Find the encoder of a checkpoint in a timm model's terms.

    Args:
        state: the checkpoint. own: the timm model's state. name: of the timm model. source: the checkpoint's file.

    Raises:
        InputError: if no part of the checkpoint has every tensor of the model, naming what the best one lacks.
    """
    layouts = LAYOUTS | {EFFICIENTNET: efficientnet_names(own)}
    best: dict[str, str] = {}
    layout = prefix = ""
    for candidate in prefixes(list(state)):
        inside = [k for k in state if k.startswith(candidate)]
        for kind, rename in layouts.items():
            fits: dict[str, str] = {}
            for key in inside:
                new = rename(key[len(candidate) :])
                if new in own and own[new].shape == state[key].shape:
                    fits[new] = key
            if len(fits) > len(best):
                best, layout, prefix = fits, kind, candidate
    # a BatchNorm that never counted its batches was saved by a PyTorch before 0.4.1; the count is not used
    lacking = [k for k in own if k not in best and not k.endswith("num_batches_tracked")]
    if lacking:
        rename = layouts[layout] if layout else _as_is
        shapes = {rename(k[len(prefix) :]): tuple(v.shape) for k, v in state.items() if k.startswith(prefix)}
        there = f"{shapes[lacking[0]]} there" if lacking[0] in shapes else "not there"
        raise InputError(
            f"checkpoint '{source}' does not hold a '{name}': {len(best)} of its {len(own)} tensors fit,"
            f" '{lacking[0]}' {tuple(own[lacking[0]].shape)} is {there}: give the architecture it holds with --model"
        )
    taken = {k: best[k] for k in own if k in best}
    values = {k: state[best[k]].to(own[k].dtype) if k in best else own[k] for k in own}
    used = set(taken.values())
    return Conversion(layout, prefix, taken, [k for k in state if k not in used], values)


def convert(config: ConvertConfig) -> Conversion:
    """Convert a checkpoint and write the folder, or nothing.

    Raises:
        InputError: if the checkpoint cannot be read or is of another architecture, or the folder cannot be written.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise InputError(f"'{config.out}' exists and is not empty: give another --out")
    encoder = create_encoder(config.model)
    conversion = recognise(read_weights(config.source), encoder.state_dict(), config.model, config.source)
    encoder.load_state_dict(conversion.state)
    if conversion.layout == EFFICIENTNET:
        for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
            assert norm.running_var is not None
            norm.running_var += EFFICIENTNET_EPS - norm.eps  # the same features with timm's own eps
    report = {
        "from": config.source.name,
        "layout": conversion.layout,
        "prefix": conversion.prefix,
        "taken": conversion.taken,
        "left_out": conversion.left,
    }
    files = encoder_files(encoder, {"converted_from": config.source.name})
    write_files(config.out, files | {REPORT_FILE: json.dumps(report, indent=1).encode() + b"\n"})
    return conversion
