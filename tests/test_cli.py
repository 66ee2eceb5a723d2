"""The command line: its help, its defaults, and the commands from end to end."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from running import command
from safetensors.torch import load_file

import ti_backbones
from ti_backbones import cli
from ti_backbones.backbone import TIBackbone
from ti_backbones.objective import PRESETS

# --- Help ------------------------------------------------------------------------------------------------------------


def options_of(config: type, prefix: str = "") -> dict[str, object]:
    """Option -> default of a configuration's class; MISSING for a required one."""
    options = {}
    for f in fields(config):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if is_dataclass(default):
            options |= options_of(type(default), f"{f.name}.")
        else:
            options[prefix + f.name.replace("_", "-")] = default
    return options


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_lists_every_option_with_its_default(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert not said.err
    text = " ".join(said.out.replace("│", " ").split())
    assert f"usage: ti-backbones {name}" in text
    text = text.partition("-h, --help")[2]
    for option, default in options_of(cli.COMMANDS[name].config).items():
        if default is MISSING:
            continue
        entry = re.search(rf"--{re.escape(option)}[ ,].*?\(default: (.*?)\)(?= --| ╭| ╰| -|$| \w+ options)", text)
        assert entry, f"--{option} is not in the help of {name}"
        assert entry[1].strip("'").replace(" ", "") == str(default).replace(" ", ""), option


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_is_explained(name):
    """Beside its name stands a sentence of the source."""
    import inspect

    config = cli.COMMANDS[name].config
    source = inspect.getsource(config)
    for f in fields(config):
        explained = re.search(rf'^    {f.name}: .*\n    """', source, re.MULTILINE)
        assert explained or f.name == "objective", f.name


def test_the_help_of_all(capsys):
    for arguments in (["--help"], ["-h"], ["help"]):
        assert cli.main(arguments) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"ti-backbones {ti_backbones.__version__}\n")


# --- Options ---------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme():
    config = cli.parse("pretrain", ["--model", "resnet18", "--out", "runs/ti_resnet18"])
    assert (config.model, config.out, config.data) == ("resnet18", Path("runs/ti_resnet18"), "embedded")
    assert config.objective == PRESETS["o2"]
    config = cli.parse("inspect", ["runs/ti_resnet18", "--data", "embedded?split=test"])
    assert (config.model, config.data) == ("runs/ti_resnet18", "embedded?split=test")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("form", ["--preset {}", "--preset={}"])
def test_a_preset_sets_the_objectives_defaults(preset, form):
    config = cli.parse("pretrain", ["--out", "x", *form.format(preset).split()])
    assert config.preset == preset
    assert config.objective == PRESETS[preset]


@pytest.mark.parametrize("order", [1, -1])
def test_options_refine_the_preset(order):
    parts = [["--preset", "paper"], ["--objective.ordinary", "0.3"]][::order]
    objective = cli.parse("pretrain", ["--out", "x", *parts[0], *parts[1]]).objective
    assert objective.ordinary == 0.3
    assert objective.views == PRESETS["paper"].views == "paper"
    assert objective.secondary == PRESETS["paper"].secondary


def test_the_help_shows_the_presets_defaults(capsys):
    shown = []
    for preset in PRESETS:
        with pytest.raises(SystemExit):
            cli.main(["pretrain", "--preset", preset, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        shown.append(re.search(r"--objective.latent .*?\(default: (\w+)\)", text)[1])
    assert shown == [PRESETS[p].latent for p in PRESETS]


# --- End to end ------------------------------------------------------------------------------------------------------


def test_pretrain_then_inspect(images: Path, tmp_path: Path, capsys):
    out = tmp_path / "ti_test_vit"
    options = ["--data", f"folder:{images}", "--size", "32", "--batch", "24", "--epochs", "1"]
    assert cli.main(["pretrain", "--model", "test_vit", "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert f"TIBackbone.from_pretrained('{out}')" in said
    files = [tmp_path / name for name in ("c.json", "deep/f.png", "f.pdf")]
    written = ["--json", str(files[0]), "--figure", str(files[1])]
    few = ["--data", f"folder:{images}", "--limit", "8", "--angles", "4"]
    assert cli.main(["inspect", str(out), *few, *written]) == 0
    assert "certificate on 8 images of folder:" in capsys.readouterr().out
    certificate = json.loads(files[0].read_text())
    assert certificate["angles_deg"] == [0, 90, 180, 270]
    with Image.open(files[1]) as figure:
        figure.load()
    # for a model without latent transformer, one is fitted
    plain = ["inspect", "test_vit", "--no-pretrained", "--size", "32", "--fit-data", f"folder:{images}", *few]
    assert cli.main([*plain, "--figure", str(files[2])]) == 0
    assert files[2].read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_the_installed_command(images: Path, tmp_path: Path):
    out = tmp_path / "run"
    options = ["--data", f"folder:{images}", "--size", "32", "--batch", "16", "--epochs", "1", "--precision", "fp32"]
    ended = command("pretrain", "--model", "resnet10t", "--out", out, *options, processes=2)
    assert ended.code == 0, ended.err
    assert "2 processes" in ended.out
    assert ended.out.count("gain over doing nothing") == 1
    ti = TIBackbone.from_pretrained(out)
    plain = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ti(x), plain(x))
    assert load_file(out / "model.safetensors").keys() == plain.state_dict().keys()
