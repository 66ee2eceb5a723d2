"""What is exported gives what PyTorch gives, in the programs that read it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from hub_models import model_folder
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18

from ti_backbones import cli
from ti_backbones.backbone import TIBackbone
from ti_backbones.export import ExportConfig, export

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("models")
    for base in ("test_resnet", "test_vit"):
        model_folder(parent / f"ti_{base}", base, figure=False)
    return parent


def expected(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Three images, and their latents as PyTorch gives them."""
    ti = TIBackbone.from_pretrained(folder)
    x = torch.randn(3, *ti.encoder.pretrained_cfg["input_size"])
    with torch.no_grad():
        return x, ti(x)


def read(path: Path, x: torch.Tensor) -> torch.Tensor:
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["latent"], {"images": x.numpy()})[0])
    module = torch.jit.load(path) if path.suffix == ".pt" else torch.export.load(path).module()
    with torch.no_grad():
        return module(x)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize(("base", "to", "suffix"), [
    ("test_resnet", "torchscript", ".pt"),
    ("test_resnet", "onnx", ".onnx"),
    pytest.param("test_resnet", "torch-export", ".pt2", marks=SLOW),
    pytest.param("test_vit", "torchscript", ".pt", marks=SLOW),
    pytest.param("test_vit", "onnx", ".onnx", marks=SLOW),
    pytest.param("test_vit", "torch-export", ".pt2", marks=SLOW),
])  # fmt: skip
def test_other_programs_give_the_same_latents(base, to, suffix, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = folders / f"ti_{base}"
    assert cli.main(["export", str(folder), "--to", to]) == 0
    said = capsys.readouterr().out
    assert f"wrote 'ti_{base}{suffix}': images B x 3 x" in said
    assert "max difference to PyTorch" in said
    x, z = expected(folder)
    assert_close(read(tmp_path / f"ti_{base}{suffix}", x), z, rtol=1e-3, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [f"ti_{base}{suffix}"]


def test_weights_alone(folders, tmp_path, capsys):
    folder, path = folders / "ti_test_resnet", tmp_path / "a.pth"
    assert cli.main(["export", str(folder), "--to", "pth", "--out", str(path)]) == 0
    state = torch.load(path, weights_only=True)
    assert type(state) is dict
    plain = timm.create_model("test_resnet", num_classes=0, checkpoint_path=path).eval()  # as TIMMBackbone calls it
    x, z = expected(folder)
    assert torch.equal(plain(x), z)
    assert all(v.untyped_storage().nbytes() == v.numel() * v.element_size() for v in state.values())


def test_keys_behind_a_prefix(folders, tmp_path):
    """What a module that keeps the encoder as `timm_model` loads, as mmpretrain's TIMMBackbone does."""
    path = tmp_path / "a.pth"
    export(ExportConfig(str(folders / "ti_test_vit"), "pth", path, prefix="timm_model."))
    host = nn.Module()
    host.timm_model = timm.create_model("test_vit", num_classes=0)
    host.load_state_dict(torch.load(path, weights_only=True), strict=True)
    x, z = expected(folders / "ti_test_vit")
    assert torch.equal(host.timm_model.eval()(x), z)


def test_a_resnet_of_torchvisions_make_takes_the_weights(tmp_path):
    """mmpose's and mmpretrain's own ResNet have torchvision's keys."""
    ti = model_folder(tmp_path / "ti_resnet18", "resnet18", figure=False)
    export(ExportConfig(str(tmp_path / "ti_resnet18"), "pth", tmp_path / "a.pth"))
    host = resnet18()
    host.fc = nn.Identity()
    host.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
    x = torch.randn(2, 3, 64, 64)
    assert_close(host.eval()(x), ti(x))


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere", "--to", "pth"], "no model folder 'nowhere'"),
    (["{folder}", "--to", "tflite"], "tflite"),
    (["{folder}", "--to", "onnx", "--prefix", "a."], "--prefix is 'a.': it goes with --to pth only"),
    (["{folder}", "--to", "torchscript", "--size", "-1"], "--size is -1: it must be 0 or more"),
    (["{vit}", "--to", "torchscript", "--size", "7"], "--size 7"),
    (["{folder}/model.safetensors", "--to", "pth"], "no model folder"),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(arguments, words, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"folder": folders / "ti_test_resnet", "vit": folders / "ti_test_vit"}
    assert cli.main(["export", *(a.format(**names) for a in arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert not list(tmp_path.iterdir())
