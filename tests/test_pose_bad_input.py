"""Bad input of finetune, evaluate and predict: one line naming thing, value and way out; exit code 2; nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hands import write_shard
from running import assert_one_line, forked
from safetensors.torch import load_file, save_file
from test_pose_finetune import files_of, options_for

from ti_backbones import cli
from ti_backbones.backbone import TIBackbone
from ti_backbones.pose.finetune_config import FinetuneConfig
from ti_backbones.pose.start import start_from


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("shard") / "hands.tar", 24)


@pytest.fixture(scope="session")
def finished(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(["finetune", "--out", str(out), *map(str, options_for(shard))]) == 0
    return out


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a command on bad input; gives its one line. Nothing may be written below `tmp_path / "run"`."""

    def run(*arguments) -> str:
        out = tmp_path / "run"
        before = files_of(out) if out.exists() else None
        capsys.readouterr()
        code = cli.main([str(a) for a in arguments])
        said = capsys.readouterr().err
        assert code == 2
        assert (files_of(out) if out.exists() else None) == before, "something was written"
        lines = [line for line in said.splitlines() if "ti-backbones: error: " in line]
        others = [line for line in said.splitlines() if line.strip() and line not in lines and "%|" not in line]
        assert len(lines) == 1, said
        assert not others, said
        return lines[0]

    return run


def assert_words(line: str, *words) -> None:
    for word in words:
        assert str(word) in line, (word, line)


# --- finetune --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--val-share", 0.0, "between 0 and 1"),
        ("--val-share", 1.0, "between 0 and 1"),
        ("--val-limit", 1, "at least 2"),
        ("--labels", 0.0, "above 0"),
        ("--labels", "nan", "above 0"),
        ("--size", -1, "0 or more"),
        ("--workers", -1, "0 or more"),
        ("--cache-gb", -1.0, "0 or more"),
        ("--seed", -1, "from 0 to below 2^63"),
        ("--log-every", 0, "at least 1"),
        ("--checkpoint-every", 0, "at least 1"),
        ("--recipe.width", -1, "0 or more"),
        ("--recipe.dropout", 1.0, "from 0 to below 1"),
        ("--recipe.rotation", 200.0, "from 0 to 180"),
        ("--recipe.latent-copies", 0, "at least 1"),
        ("--recipe.zoom", 1.0, "from 0 to below 1"),
        ("--recipe.shift", 0.6, "from 0 to 0.5"),
        ("--recipe.colour", 1.5, "from 0 to 1"),
        ("--recipe.aligned", "inf", "0 or more"),
        ("--recipe.epochs", 0, "at least 1"),
        ("--recipe.min-steps", 0, "at least 1"),
        ("--recipe.batch", 0, "at least 1"),
        ("--recipe.lr", "nan", "between 0 and 1"),
        ("--recipe.layer-decay", 0.0, "above 0 and at most 1"),
        ("--recipe.warmup", 1.0, "from 0 to below 1"),
        ("--recipe.weight-decay", -0.1, "0 or more"),
        ("--recipe.clip", 0.0, "above 0"),
    ],
)
def test_a_value_out_of_range(option, value, wanted, fails, shard: Path, tmp_path: Path):
    line = fails("finetune", "--out", tmp_path / "run", *options_for(shard), option, value)
    assert_words(line, f"{option} is {value}: it must be {wanted}")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--model", "resnet81"), ("unknown model 'resnet81'", "resnet18")),
        (("--model", "inception_v3"), ("does not run at --size 32", "another size")),
        (("--model", "ti_resnet26", "--init", "pretrained"), ("ti_resnet26", "TI_BACKBONES_HUB")),
        (("--init", "imagenet"), ("--init is 'imagenet'", "pretrained, random")),
        (("--recipe.mode", "thawed"), ("--recipe.mode", "thawed", "frozen")),
        (("--recipe.head", "cnn"), ("--recipe.head", "cnn", "equivariant")),
        (("--output", "mesh"), ("--output", "mesh", "mano")),
        (("--preset", "best"), ("--preset", "best", "paper")),
        (("--data", "embeded"), ("unknown data 'embeded'", "embedded")),
        (("--data", "shards:/nowhere"), ("no tar file at '/nowhere'",)),
        (("--device", "gpu"), ("--device is 'gpu'", "cpu")),
        (("--output", "mano"), ("--output mano needs --mano", "mano.is.tue.mpg.de")),
    ],
)
def test_options_that_do_not_fit(more, words, fails, shard: Path, tmp_path: Path):
    assert_words(fails("finetune", "--out", tmp_path / "run", *options_for(shard), *more), *words)


def test_sets_without_a_usable_hand(fails, shard: Path, images: Path, tmp_path: Path):
    out = ("--out", tmp_path / "run")
    unlabelled = f"folder:{images}"
    line = fails("finetune", *out, *options_for(shard), "--data", unlabelled)
    assert_words(line, unlabelled, "no hand with labelled joints", "labels")
    line = fails("finetune", *out, *options_for(shard), "--val-data", unlabelled)
    assert_words(line, unlabelled, "no hand with labelled joints")
    line = fails("finetune", *out, *options_for(shard), "--val-data", "embedded")
    assert_words(line, "'embedded'", "no split 'val'")  # and not silently its test split
    absent = write_shard(tmp_path / "absent.tar", 8, lambda i, label: label.update(valid=[0] * 21))
    assert_words(fails("finetune", *out, *options_for(absent)), "none of", "samples can be used", "labelled")
    one = write_shard(tmp_path / "one.tar", 1)
    assert_words(fails("finetune", *out, *options_for(one)), "1 sample", "--val-data")


def test_joints_of_another_count(fails, tmp_path: Path):
    other = write_shard(tmp_path / "20.tar", 8, lambda i, label: label.update(joints_mm=label["joints_mm"][:20]))
    assert_words(fails("finetune", "--out", tmp_path / "run", *options_for(other)), "joints_mm", "000000.json")


def test_a_head_that_does_not_fit_the_checkpoint(fails, shard: Path, tmp_path: Path):
    TIBackbone("test_resnet", "affine").save_pretrained(tmp_path / "affine")
    options = options_for(shard, "--init", "pretrained", model=tmp_path / "affine")
    line = fails("finetune", "--out", tmp_path / "run", *options, "--recipe.head", "equivariant")
    assert_words(line, "equivariant", "'affine'", "--head mlp")


def test_a_folder_that_holds_another_run(fails, shard: Path, finished: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert_words(fails("finetune", "--out", out, *options_for(shard)), "already holds a run", "--resume")
    other = options_for(shard, "--recipe.dropout", 0.7, "--resume")
    assert_words(fails("finetune", "--out", out, *other), "dropout 0.2, not 0.7")
    more = write_shard(tmp_path / "more.tar", 24)
    shard_of_run = options_for(more, "--resume")
    assert_words(fails("finetune", "--out", out, *shard_of_run), "data", "resume it with its own options")
    (out / "training" / "checkpoint.pt").write_bytes(b"no checkpoint")
    assert_words(fails("finetune", "--out", out, *options_for(shard, "--resume")), "checkpoint.pt", "cannot be read")
    (out / "training" / "checkpoint.pt").unlink()
    assert_words(fails("finetune", "--out", out, *options_for(shard, "--resume")), "already holds a model")


def test_a_training_that_goes_astray_names_the_checkpoint(shard: Path, tmp_path: Path):
    """The last good one, from which it can go on with a lower rate, and does."""
    out, often = tmp_path / "run", ("--checkpoint-every", 1, "--recipe.warmup", 0)
    absurd = ("--recipe.lr", 0.9, "--recipe.weight-decay", 1e6)
    ended = forked("finetune", "--out", out, *options_for(shard, *often, *absurd))
    assert_one_line(ended, "finite", str(out / "training" / "checkpoint.pt"), "--resume", "--recipe.lr")
    assert not (out / "pose.json").exists()
    state = torch.load(out / "training" / "checkpoint.pt", weights_only=True)
    assert state["step"] >= 1
    assert all(v.isfinite().all() for v in state["model"].values())
    lower = ("--recipe.lr", 1e-9, "--recipe.weight-decay", 1e6, "--resume")
    assert forked("finetune", "--out", out, *options_for(shard, *often, *lower)).code == 0
    at_once = ("--recipe.lr", 0.9, "--recipe.weight-decay", 1e300, *often)
    assert_one_line(forked("finetune", "--out", tmp_path / "2", *options_for(shard, *at_once)), "no checkpoint yet")


# --- evaluate and predict --------------------------------------------------------------------------------------------


def test_folders_that_hold_no_pose_model(fails, shard: Path, finished: Path, tmp_path: Path):
    run, data = tmp_path / "run", ("--data", f"shards:{shard}", "--device", "cpu", "--workers", 0)
    assert_words(fails("evaluate", run, *data), f"no pose model in '{run}'", "finetune")
    shutil.copytree(finished, run)
    broken = {
        "pose.json": b"{",
        "pose_head.safetensors": b"weights",
        "model.safetensors": b"weights",
        "config.json": b"[]",
    }
    for name, content in broken.items():
        before = (run / name).read_bytes()
        (run / name).write_bytes(content)
        assert_words(fails("evaluate", run, *data), name.replace("model.safetensors", "run"))
        (run / name).write_bytes(before)
    spec = json.loads((run / "pose.json").read_text())
    (run / "pose.json").write_text(json.dumps(spec | {"options": {"wide": 3}}))
    assert_words(fails("evaluate", run, *data), "pose.json", "pose head")
    (run / "pose.json").write_text(json.dumps(spec | {"options": {"width": 64}}))
    assert_words(fails("evaluate", run, *data), "pose_head.safetensors", "another shape")


def test_predictions_that_are_not_finite(fails, shard: Path, finished: Path, images: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    weights = load_file(run / "pose_head.safetensors")
    save_file({k: v * torch.nan if k == "out.bias" else v for k, v in weights.items()}, run / "pose_head.safetensors")
    line = fails("evaluate", run, "--data", f"shards:{shard}", "--device", "cpu", "--workers", 0)
    assert_words(line, "prediction for '000000'", "not finite (24 of 24)", "--precision fp32")
    line = fails("predict", run, images, "--out", tmp_path / "predicted", "--device", "cpu")
    assert_words(line, "predictions are not finite")
    assert not (tmp_path / "predicted").exists()


def test_evaluate_options(fails, shard: Path, finished: Path, images: Path, tmp_path: Path):
    test = ("evaluate", finished, "--device", "cpu", "--workers", 0, "--data")
    assert_words(fails(*test, f"folder:{images}"), "no hand with labelled joints")
    assert_words(fails(*test, f"shards:{shard}", "--official"), "--official goes with", "dexycb")
    for option in ("--angles", "--limit"):
        assert_words(fails(*test, f"shards:{shard}", option, -1), f"{option} is -1: it must be 0 or more")
    against = (*test, f"shards:{shard}", "--against")
    assert_words(fails(*against, images), f"--against '{images}' has no results", "run evaluate on it")
    assert not (finished / "evaluation").exists()
    others = json.dumps({"data": "others", "samples": []})
    for said, word in ((others, "are of other hands"), ("[]", "are no results of evaluate")):
        (tmp_path / "results.json").write_text(said)
        out = tmp_path / "evaluation"
        assert_words(fails(*against, tmp_path, "--out", out), word)
        assert json.loads((out / "results.json").read_text())["against"] == {}  # what was computed is there


def test_predict_options(fails, finished: Path, images: Path, tmp_path: Path):
    out = ("--out", tmp_path / "predicted", "--device", "cpu")
    assert_words(fails("predict", finished, tmp_path / "none", *out), f"no image or folder '{tmp_path / 'none'}'")
    (tmp_path / "notes.txt").write_text("hello")
    assert_words(fails("predict", finished, tmp_path / "notes.txt", *out), "is no image", ".jpg")
    (tmp_path / "cut.jpg").write_bytes((images / "000.jpg").read_bytes()[:400])
    assert_words(fails("predict", finished, tmp_path / "cut.jpg", *out), "cut.jpg", "cannot be read")
    assert_words(fails("predict", finished, images, *out, "--batch", 0), "--batch is 0: it must be at least 1")
    folder = tmp_path / "broken"
    folder.mkdir()
    shutil.copy(tmp_path / "cut.jpg", folder)
    assert_words(fails("predict", finished, folder, *out), "no image", "cut.jpg")
    assert not (tmp_path / "predicted").exists()


def test_a_broken_image_among_others_is_named(finished: Path, images: Path, tmp_path: Path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(images / "001.jpg", folder)
    (folder / "000.jpg").write_bytes((images / "000.jpg").read_bytes()[:400])
    out = tmp_path / "predicted"
    assert cli.main(["predict", str(finished), str(folder), "--out", str(out), "--device", "cpu"]) == 0
    content = json.loads((out / "joints.json").read_text())
    assert list(content["hands"]) == ["001.jpg"]
    assert "000.jpg" in next(iter(content["broken"].values()))


def test_a_folder_called_as_names_are_is_a_folder(tmp_path: Path, monkeypatch):
    """Also where its weights are not wanted: it says which architecture is meant, and the size."""
    ti = TIBackbone("test_resnet")
    ti.metadata = {"training": {"size": 96}}
    ti.save_pretrained(tmp_path / "ti_mine")
    monkeypatch.chdir(tmp_path)
    _, transformer, said = start_from(FinetuneConfig(tmp_path / "run", "ti_mine", init="random"))
    assert transformer is None
    assert said["size"] == 96
