"""Checkpoints of other libraries: the converted encoder gives their own model's features."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file, save_file

from ti_backbones.cli import main
from ti_backbones.convert import LAYOUTS, prefixes

SIZE = 64


def run(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def settled(model: torch.nn.Module) -> torch.nn.Module:
    """A model whose BatchNorms and position embeddings are not at their start, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "running_var" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point() and tensor.abs().sum() == 0:
                tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def converted(source: Path, model: str, out: Path, **timm_kwargs) -> torch.nn.Module:
    assert run("--from", source, "--model", model, "--out", out) == 0
    return timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0, **timm_kwargs).eval()


def resnet() -> torch.nn.Module:
    return settled(torchvision.models.resnet18(weights=None))


def features(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A torchvision ResNet's pooled features."""
    model.fc = torch.nn.Identity()
    return model(x)


def as_sequential(model: torch.nn.Module) -> dict:
    return torch.nn.Sequential(*list(model.children())[:-1]).state_dict()


WRAPPED = {
    "torchvision": lambda m: m.state_dict(),
    "lightning": lambda m: {"state_dict": {f"backbone.{k}": v for k, v in as_sequential(m).items()}, "epoch": 3},
    "lightly with a head": lambda m: {
        **{f"backbone.{k}": v for k, v in as_sequential(m).items()},
        "projection_head.layers.0.weight": torch.zeros(8, 8),
    },
    "moco": lambda m: {
        "state_dict": {f"module.encoder_q.{k}": v for k, v in m.state_dict().items()}
        | {"module.queue": torch.zeros(128, 10)},
        "arch": "resnet18",
    },
    "simclr": lambda m: (
        {f"convnet.{k}": v for k, v in m.state_dict().items()} | {"projector.0.weight": torch.ones(2, 2)}
    ),
    "mmpose": lambda m: {
        "meta": {"epoch": 1, "dataset_name": "hand"},
        "state_dict": {f"backbone.{k}": v for k, v in m.state_dict().items() if not k.startswith("fc.")}
        | {"head.final_layer.weight": torch.zeros(21, 4, 1, 1)},
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_resnet_of_any_library_keeps_its_features(kind: str, tmp_path: Path, capsys):
    theirs = resnet()
    torch.save(WRAPPED[kind](theirs), tmp_path / "theirs.pth")
    ours = converted(tmp_path / "theirs.pth", "resnet18", tmp_path / "ours")
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(x), features(theirs, x), atol=1e-5)
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    every = {*report["taken"].values(), *report["left_out"]}
    saved = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert every == {k.removeprefix("module.") for k in saved.get("state_dict", saved)}  # each key is accounted for
    assert all(key in said for key in every)
    assert not list((tmp_path / "ours").glob("*.p*t*"))


def test_torchvisions_vit_keeps_its_features(tmp_path: Path):
    make = torchvision.models.VisionTransformer
    theirs = settled(make(SIZE, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    out = tmp_path / "ours"
    with torch.no_grad():
        # timm's vit_tiny has 224 px: its position embedding is of another shape, which is said and not guessed
        assert run("--from", tmp_path / "theirs.safetensors", "--model", "vit_tiny_patch16_224", "--out", out) == 2
        wide = settled(make(224, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768))
        wide.heads = torch.nn.Identity()
        save_file(wide.state_dict(), tmp_path / "wide.safetensors")
        ours = converted(tmp_path / "wide.safetensors", "vit_tiny_patch16_224", out)
        x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(ours(x), wide(x), atol=1e-4)


def test_mae_leaves_its_decoder_and_mmpretrains_vit_is_renamed(tmp_path: Path):
    theirs = settled(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    mae = {**theirs.state_dict(), "mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 192)}
    torch.save({"model": mae}, tmp_path / "mae.pth")

    def mmpretrain(key: str) -> str:
        for ours, name in (
            ("patch_embed.proj.", "patch_embed.projection."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
            (".norm1.", ".ln1."),
            (".norm2.", ".ln2."),
            ("blocks.", "layers."),
        ):
            key = key.replace(ours, name)
        return "backbone." + ("ln1." + key[5:] if key.startswith("norm.") else key)

    torch.save({"state_dict": {mmpretrain(k): v for k, v in theirs.state_dict().items()}}, tmp_path / "mm.pth")
    for name in ("mae", "mm"):
        ours = converted(tmp_path / f"{name}.pth", "vit_tiny_patch16_224", tmp_path / name)
        with torch.no_grad():
            assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert json.loads((tmp_path / "mae" / "conversion.json").read_text())["left_out"] == [
        "mask_token",
        "decoder_embed.weight",
    ]


def test_an_efficientnet_of_efficientnet_pytorch_keeps_its_features(tmp_path: Path):
    theirs = settled(EfficientNet.from_name("efficientnet-lite0"))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    same_padding = converted(tmp_path / "theirs.pth", "tf_efficientnet_lite0", tmp_path / "tf")
    ours = converted(tmp_path / "theirs.pth", "efficientnet_lite0", tmp_path / "ours")
    # timm's own padding, with the eps that the weights were trained with
    padded = timm.create_model("tf_efficientnet_lite0", pad_type="", num_classes=0).eval()
    padded.load_state_dict(same_padding.state_dict())
    with torch.no_grad():
        assert torch.allclose(same_padding(x), theirs.extract_features(x).mean((2, 3)), rtol=1e-4, atol=1e-6)
        assert torch.allclose(ours(x), padded(x), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_is_converted_starts_a_pretraining(tmp_path: Path):
    torch.save(resnet().state_dict(), tmp_path / "theirs.pth")
    assert run("--from", tmp_path / "theirs.pth", "--model", "resnet18", "--out", tmp_path / "ours") == 0
    data = ("--data", "embedded", "--size", 32, "--batch", 500, "--epochs", 1)
    assert (
        main(
            [
                "pretrain",
                "--model",
                "resnet18",
                "--init",
                str(tmp_path / "ours"),
                "--out",
                str(tmp_path / "run"),
                *map(str, data),
            ]
        )
        == 0
    )
    assert set(load_file(tmp_path / "run" / "model.safetensors")) == set(
        load_file(tmp_path / "ours" / "model.safetensors")
    )


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bomb.pth").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    Path("cut.pth").write_bytes(b"PK\x03\x04 cut")
    torch.save({"state_dict": {}}, "empty.pth")
    torch.save(resnet().state_dict(), "theirs.pth")
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("kept")
    for arguments, said in (
        (("--from", "bomb.pth", "--model", "resnet18", "--out", "ours"), "nothing in the file was run"),
        (("--from", "cut.pth", "--model", "resnet18", "--out", "ours"), "'cut.pth' cannot be read"),
        (("--from", "none.pth", "--model", "resnet18", "--out", "ours"), "'none.pth' cannot be read"),
        (("--from", "empty.pth", "--model", "resnet18", "--out", "ours"), "0 of its"),
        (("--from", "theirs.pth", "--model", "resnet34", "--out", "ours"), "does not hold a 'resnet34'"),
        (("--from", "theirs.pth", "--model", "resnet81", "--out", "ours"), "unknown model 'resnet81'"),
        (("--from", "theirs.pth", "--model", "resnet18", "--out", "taken"), "'taken' exists and is not empty"),
        (("--model", "resnet18", "--out", "ours"), "--from"),
    ):
        assert run(*arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
        assert not Path("ours").exists()
    assert not Path("exploded").exists()
    assert Path("taken/mine.txt").read_text() == "kept"


def test_every_layout_is_its_own_inverse_on_nothing():
    """Prefixes are whole parts; no layout renames what is timm's already, but the one whose names are digits."""
    assert prefixes(["a.b.c", "a.d"]) == ["", "a.", "a.b."]
    names = list(timm.create_model("vit_tiny_patch16_224").state_dict()) + list(
        timm.create_model("resnet18").state_dict()
    )
    for rename in LAYOUTS.values():
        assert [rename(n) for n in names] == names
