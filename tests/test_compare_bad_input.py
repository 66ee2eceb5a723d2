"""Bad input of compare: one line naming thing, value and way out; exit code 2; nothing lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hands import write_shard
from PIL import Image

from ti_backbones import cli

SMALL = ("--model", "test_resnet", "--size", 32, "--batch-views", 28, "--budget-views", 28, "--device", "cpu")
FEW = ("--recipe.epochs", 1, "--recipe.min-steps", 1, "--recipe.batch", 8, "--workers", 0, "--angles", 2, "--labels", 1)


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("hands") / "hands.tar", 24)


def fails(capsys: pytest.CaptureFixture, *arguments) -> str:
    """Run compare on bad input; gives its one line."""
    capsys.readouterr()
    assert cli.main(["compare", *map(str, arguments)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("ti-backbones: error: ")
    return said[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--methods", "scratch,byol"), ("--methods", "'byol'", "ti-o2")),
        (("--methods", "start"), ("'start'",)),
        (("--methods", ","), ("--methods",)),
        (("--own-head", "magic"), ("--own-head", "'magic'")),
        (("--own-head", "scratch:magic"), ("--own-head has 'scratch:magic'", "articulated")),
        (("--budget-views", 27), ("--budget-views is 27", "28 views")),
        (("--batch-views", 30), ("--batch-views is 30", "multiple of 14")),
        (("--labels", "0.1,x"), ("--labels is '0.1,x'", "numbers")),
        (("--labels", "0,1"), ("--labels", "above 0")),
        (("--labels", "0.1", "--label-seeds", "1,2"), ("--label-seeds is '1,2'", "each")),
        (("--labels", "0.01,1"), ("--labels 0.01", "--recipe.batch 8", "larger share")),
        (("--batch-views", 56, "--budget-views", 56), ("--batch-views 56", "28 images")),
        (("--given", "mine"), ("--given has 'mine'", "name=folder")),
        (("--given", "scratch=x"), ("--given has 'scratch=x'", "no other row")),
        (("--given", "mine=nowhere"), ("nowhere",)),
        (("--given", "mine=ti_resnet10t"), ("ti_resnet10t",)),
        (("--seeds", 0), ("--seeds is 0",)),
        (("--angles", 1), ("--angles is 1",)),
        (("--size", 33), ("--size is 33", "multiple of 32")),
        (("--model", "resnet_of_nobody"), ("resnet_of_nobody",)),
        (("--init", "nowhere.safetensors"), ("nowhere.safetensors",)),
        (("--recipe.lr", 2), ("--recipe.lr is 2",)),
    ],
)
def test_options_that_cannot_be(more, words, hands: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    line = fails(capsys, "--out", out, "--data", f"shards:{hands}", *SMALL, *FEW, *more)
    for word in words:
        assert word in line
    assert not out.exists(), "something was written"


def test_a_set_without_labels(tmp_path: Path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (32, 32), (i, i, i)).save(folder / f"{i}.png")
    line = fails(capsys, "--out", tmp_path / "out", "--data", f"folder:{folder}", *SMALL, *FEW)
    assert "no hand with labelled joints" in line
    assert not (tmp_path / "out").exists()


def test_another_budget_or_other_hands_in_the_same_folder(hands: Path, tmp_path: Path, capsys):
    out, own = tmp_path / "out", ("--methods", "scratch", "--labels", 1, "--seeds", 1)
    arguments = ("--out", out, "--data", f"shards:{hands}", *SMALL, *FEW, *own)
    assert cli.main(["compare", *map(str, arguments)]) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    line = fails(capsys, *arguments, "--budget-views", 56)
    assert "budget_views 28, not 56" in line
    assert "another --out" in line
    write_shard(hands, 20)
    assert "another --out" in fails(capsys, *arguments)
    write_shard(hands, 24)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_without_lightly(hands: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    line = fails(capsys, "--out", tmp_path / "out", "--data", f"shards:{hands}", *SMALL, *FEW, "--methods", "simclr")
    assert "'ti-backbones[compare]'" in line
    assert not (tmp_path / "out").exists()
