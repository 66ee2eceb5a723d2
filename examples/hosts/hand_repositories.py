"""TI weights under the names that hand-pose repositories give to their own backbones.

python hand_repositories.py                      compare keys and shapes with what each repository expects
python hand_repositories.py NAME FOLDER OUT.pth  write the weights of a model folder for one of them

`hand_repositories.md` says which line of each repository loads the file.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import Tensor, nn

import ti_backbones  # noqa: F401  (registers the ti_* names)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Repository:
    """A repository's backbone.

    Attributes:
        model: the ti_* model whose weights it takes.
        convert: timm's state dict under the repository's names.
        expected: the keys and shapes of the repository's backbone, less its classifier.
        options: of timm.create_model.
    """

    model: str
    convert: Callable[[State], State]
    expected: Callable[[], dict[str, tuple[int, ...]]]
    options: dict


def torchvision_resnet(name: str) -> nn.Module:
    """torchvision's ResNet without its classifier, as PeCLR builds it and HandMesh copies it."""
    model = torchvision.models.get_model(name, weights=None)
    model.fc = nn.Identity()
    return model


def numbered_resnet(name: str) -> nn.Module:
    """PeCLR's pretraining model: the children of torchvision's ResNet, in a Sequential."""
    resnet, model = torchvision_resnet(name), nn.Module()
    model.features = nn.Sequential(*list(resnet.children())[:-1])
    return model


def pyramid_resnet(name: str) -> nn.Module:
    """The way up of HandOccNet's FPN."""
    resnet, model = torchvision_resnet(name), nn.Module()
    model.layer0 = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    for i in range(1, 5):
        model.add_module(f"layer{i}", nn.Sequential(resnet.get_submodule(f"layer{i}")))
    return model


def peclr_features(key: str) -> str:
    """PeCLR's pretraining model numbers the children of torchvision's ResNet: conv1, bn1, relu, maxpool, layer1, …"""
    child, _, rest = key.partition(".")
    return f"features.{['conv1', 'bn1', '', '', 'layer1', 'layer2', 'layer3', 'layer4'].index(child)}.{rest}"


def hand_occ_net(key: str) -> str:
    """HandOccNet puts the stem into `layer0`, and each layer into a Sequential of its own."""
    child, _, rest = key.partition(".")
    return f"layer0.{['conv1', 'bn1'].index(child)}.{rest}" if child in ("conv1", "bn1") else f"{child}.0.{rest}"


def hamer(state: State) -> State:
    """HaMeR's ViT-H names the last norm `last_norm` and adds a class token's position, here zero, to all others."""
    position = state["pos_embed"]
    state = {re.sub(r"^norm\.", "last_norm.", k): v for k, v in state.items()}
    return state | {"pos_embed": torch.cat([torch.zeros_like(position[:, :1]), position], 1)}


def hamer_shapes() -> dict[str, tuple[int, ...]]:
    """The ViT of HaMeR's hamer/models/backbones/vit.py: 256 x 192 pixels, patches of 16, width 1280, 32 blocks."""
    width = 1280
    block = {"norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,)}
    block |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    layers = {f"blocks.{i}.{name}": shape for i in range(32) for name, shape in block.items()}
    layers |= {"patch_embed.proj": (width, 3, 16, 16), "last_norm": (width,)}
    shapes = {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    return shapes | {"pos_embed": (1, 16 * 12 + 1, width)}


def _resnet(name: str, build: Callable[[str], nn.Module], rename: Callable[[str], str] = str) -> Repository:
    def expected() -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in build(name).state_dict().items()}

    return Repository(f"ti_{name}", lambda state: {rename(k): v for k, v in state.items()}, expected, {})


REPOSITORIES = {
    "peclr": _resnet("resnet50", torchvision_resnet),
    "peclr-pretraining": _resnet("resnet50", numbered_resnet, peclr_features),
    "handmesh-cmr": _resnet("resnet18", torchvision_resnet),
    "handoccnet": _resnet("resnet50", pyramid_resnet, hand_occ_net),
    "hamer": Repository("ti_vit_huge_patch16_gap_448", hamer, hamer_shapes, {"img_size": (256, 192)}),
}


def compare(name: str) -> tuple[int, list[str]]:
    """How many tensors a repository expects, and those keys that are missing, left over or of another shape."""
    repository = REPOSITORIES[name]
    with torch.device("meta"):
        model = timm.create_model(repository.model, **repository.options)
        found = {k: tuple(v.shape) for k, v in repository.convert(dict(model.state_dict())).items()}
    expected = repository.expected()
    return len(expected), sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))


def main(name: str = "", folder: str = "", out: str = "") -> None:
    """Compare all of them, or write the file for one."""
    if name:
        repository = REPOSITORIES[name]
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **repository.options)
        torch.save(repository.convert(model.state_dict()), out)
        print(f"wrote '{out}' for {name}")
        return
    for name, repository in REPOSITORIES.items():
        count, wrong = compare(name)
        print(f"{name}: {repository.model}, {count} tensors expected, {len(wrong)} do not fit {wrong[:3]}")
    # simpleHand takes timm models by name: it needs a map of 7 x 7, and the width that its configuration names
    with torch.device("meta"):
        shape = timm.create_model("ti_convnext_tiny", drop_path_rate=0.2).forward_features(torch.rand(1, 3, 224, 224))
    print(f"simplehand: ti_convnext_tiny, feature map {tuple(shape.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
