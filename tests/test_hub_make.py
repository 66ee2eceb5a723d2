"""A published model is made again by one command, and its folder holds what was trained and measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from hub import overview
from ti_backbones import isomorphism
from ti_backbones.backbone import HALVED, TIBackbone
from ti_backbones.data import load_all, open_data

ROOT = Path(__file__).resolve().parent.parent
NAME = "ti_test_resnet.small"
FEW = "--size 32 --precision fp32 --device cpu --workers 0"
RECIPE = """
license = "apache-2.0"
data = "40 renders"
test_data = "12 synthetic renders"
commands = [
    "python -m hub.hands render --num 40 --size 64 --processes 1 --out {work}/train",
    "python -m hub.hands render --num 12 --size 64 --processes 1 --split test --first 20000 --out {work}/test",
    "ti-backbones pretrain --model test_resnet --data shards:{work}/train --test-data shards:{work}/test {few} --grow 32:0.5 --size 64 --batch 8 --epochs 2 --resume --out {work}/run",
    "ti-backbones pretrain --model test_resnet --preset autoencoder --data shards:{work}/train --test-data shards:{work}/test {few} --batch 8 --epochs 2 --resume --out {work}/rival",
    "ti-backbones compare --model test_resnet --data shards:{work}/train --test-data shards:{work}/test {few} --methods scratch --given ti={work}/run,ae-pooled={work}/rival --own-head ti:equivariant --labels 0.5 --seeds 2 --recipe.epochs 1 --recipe.min-steps 2 --recipe.batch 8 --angles 2 --out {work}/compare",
    "python tests/benchmarks --only inference --quick --pairs 1 --threads 1 --json {work}/speed.json",
    "python -m hub.assemble ti_test_resnet.small --run {work}/run --data shards:{work}/test --photos shards:{work}/train --comparison {work}/compare --speed {work}/speed.json --bundle --models {work}/models --recipes {work}/recipes --package {work}/package",
]
"""  # noqa: E501


def make(work: Path, *more: str) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", "hub.make", NAME, "--recipes", str(work / "recipes"), *more]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_recipe_makes_the_folder_with_its_proof(tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / f"{NAME}.toml").write_text(RECIPE.format(work=tmp_path, few=FEW))
    shown = make(tmp_path, "--dry-run")
    assert shown.stdout.count("\n") == 7
    assert not (tmp_path / "train").exists()
    made = make(tmp_path)
    assert made.returncode == 0, made.stderr

    folder, run = tmp_path / "models" / NAME, TIBackbone.from_pretrained(tmp_path / "run")
    ours = TIBackbone.from_pretrained(folder)
    images = load_all(open_data(f"shards:{tmp_path / 'test'}"), 64).images
    certificate = isomorphism.certify_backbone(ours, images)
    recorded = json.loads((folder / "certificate.json").read_text())
    assert certificate.gain == pytest.approx(recorded["gain"], abs=1e-4)
    assert recorded["data"] == "12 synthetic renders"
    stored = load_file(folder / "model.safetensors")
    assert {v.dtype for v in stored.values() if v.numel() >= HALVED} == {torch.float16}
    x = images.float() / 255
    with torch.no_grad():
        assert (ours(x) - run.eval()(x)).norm() < 1e-3 * run(x).norm()
        assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x), ours(x))
    for file in ("model.safetensors", "config.json", "latent_transformer.safetensors"):
        assert (tmp_path / "package" / NAME / file).read_bytes() == (folder / file).read_bytes()

    card, report = (folder / "README.md").read_text(), json.loads((folder / "comparison" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["scratch", "ae-pooled", "ti", "ti, equivariant"]
    tens = report["rows"][2]["finetuning"]["50 %"]["pa_mpjpe"]
    said = ("(12 synthetic renders)", "real photographs", "## Speed", "](views.png)")
    for part in (f"{tens['mean']:.1f} ± {tens['sd']:.1f}", *said):
        assert part in card
    assert str(tmp_path) not in card.partition("## Recipe")[0]
    assert f"loss {json.loads((folder / 'log.jsonl').read_text().splitlines()[-1])['loss']:.3g}" in card

    found = overview.models(tmp_path / "models")
    line = overview.table(found).splitlines()[2]
    tuned = [overview.errors(report["rows"][i]["finetuning"]["50 %"]) for i in (2, 0)]
    for part in (NAME, f"{recorded['gain']:.2f}", overview.errors(report["rows"][2]["probe"]), " | ".join(tuned)):
        assert part in line
    overview.figure(found, tmp_path / "figure.png")
    assert overview.is_drawn(found, tmp_path / "figure.png")
    found[0].measured["certificate.json"]["error_rotated"][0] += 1e-3
    assert not overview.is_drawn(found, tmp_path / "figure.png")


def test_what_is_no_recipe_is_said_in_one_line(tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    ended = make(tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == f"make: error: no recipe '{NAME}' in '{tmp_path / 'recipes'}': there are none\n"
    (tmp_path / "recipes" / f"{NAME}.toml").write_text("license = 'mit'\ncommands = ['false']")
    ended = make(tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == f"make: error: command 1 of '{NAME}' ended with exit code 1: mend it, run this again\n"
