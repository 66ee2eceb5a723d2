"""Pretraining, run for real: resuming to the bit, many processes as one, and what it leaves behind."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from running import Ended, Forked, assert_one_line, command, forked, until, weights
from safetensors.torch import load_file, save_file

import ti_backbones  # noqa: F401  (registers the names)
from ti_backbones import isomorphism
from ti_backbones.backbone import TIBackbone
from ti_backbones.data import load_all, open_data
from ti_backbones.errors import InputError
from ti_backbones.pretrain_config import PretrainConfig
from ti_backbones.pretrain_setup import build, learning_rate, make_optimiser, set_learning_rate

SMALL = ("--size", 32, "--batch", 8, "--epochs", 1, "--precision", "fp32", "--device", "cpu")
STEPS = 9  # 73 images in batches of 8


def options_for(images: Path, *more, model: str = "test_resnet") -> tuple:
    return ("--model", model, "--data", f"folder:{images}", *SMALL, *more)


def train(out: Path, images: Path, *more, model: str = "test_resnet") -> Ended:
    """A short pretraining in a fork."""
    options = options_for(images, *more, model=model)
    ended = forked("pretrain", "--out", out, *options)
    assert ended.code == 0, ended.err
    return ended


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]


def checkpoint_of(out: Path) -> dict:
    return torch.load(out / "training" / "checkpoint.pt", weights_only=True)


# --- Resuming --------------------------------------------------------------------------------------------------------


def assert_same_run(a: Path, b: Path) -> None:
    """Two runs ended with the same files, to the byte, and the same log but for the clock's part."""
    for name in ("model.safetensors", "latent_transformer.safetensors", "config.json", "certificate.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    logs = [[{k: v for k, v in line.items() if k != "images_per_s"} for line in log_of(run)] for run in (a, b)]
    assert logs[0] == logs[1]
    assert not list(b.rglob(".*")), "temporary files are left"


def kill_and_resume(start, checkpoint: Path, step_s: float, kills: int, rng: random.Random) -> list[int]:
    """Start and SIGKILL a run at random moments, then let it end.

    Every second kill comes at any moment of a start; the others soon after a checkpoint was written, so that
    there is something to resume, and steps since then that are lost.

    Args:
        start: starts or resumes the run.
        checkpoint: the run's checkpoint.
        step_s: about the duration of a step.
        kills: how often to kill.

    Returns:
        The steps that it was resumed at.
    """
    resumed, killed = [], 0
    while True:
        before, run = written(checkpoint), start()
        if killed < kills and killed % 2:
            time.sleep(rng.uniform(0, 10) * step_s)
        elif killed < kills:
            until(lambda b=before, r=run: written(checkpoint) != b or r.ended())
            time.sleep(rng.uniform(0, 3) * step_s)
        ends = killed == kills or run.ended()
        if not ends:
            run.send(signal.SIGKILL)
        ended = run.wait()
        if "resumed at step" in ended.out:
            resumed.append(int(ended.out.partition("resumed at step ")[2].split()[0]))
        if ends:
            assert ended.code == 0, ended.err
            return resumed
        if ended.code != 0:  # else it ended just before
            assert ended.code == -signal.SIGKILL, ended.err
        killed += 1


def written(path: Path) -> int:
    """When a file was last replaced, 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


KILLED = [
    ("test_resnet", ()),
    pytest.param(
        "test_convnext",
        ("--drop-path", 0.3, "--ema", 0.9, "--accumulate", 2, "--objective.colour", 0.3, "--objective.alone", 0.4),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "test_vit",
        ("--drop-path", 0.2, "--preset", "paper", "--precision", "bf16", "--cache-gb", 0, "--workers", 1),
        marks=pytest.mark.slow,
    ),
    pytest.param("test_vit", ("--grow", "32:0.4,64:0.3", "--size", 96), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "more"), KILLED)
def test_a_killed_and_resumed_run_ends_with_the_same_bits(model, more, images: Path, tmp_path: Path):
    often = ("--epochs", 2, "--log-every", 1, "--checkpoint-every", 2, "--pictures-every", 3)
    train(tmp_path / "whole", images, *often, *more, model=model)
    step_s = 8 / statistics.median(line["images_per_s"] for line in log_of(tmp_path / "whole"))
    options = options_for(images, *often, *more, model=model)
    out = tmp_path / "killed"

    def start() -> Forked:
        return Forked(["pretrain", "--out", out, *options, "--resume"])

    resumed = kill_and_resume(start, out / "training" / "checkpoint.pt", step_s, 5, random.Random(0))

    print("resumed at steps", resumed)
    assert any(0 < step < 2 * STEPS for step in resumed)
    assert [line["step"] for line in log_of(out)] == list(range(1, 2 * STEPS + 1))
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.slow
def test_the_installed_command_survives_kills(images: Path, tmp_path: Path):
    """The same in fresh interpreters, on a real architecture, killed at three different steps."""
    often = ("--epochs", 2, "--log-every", 1, "--checkpoint-every", 1)
    options = [str(o) for o in options_for(images, *often, model="resnet10t")]
    program = [sys.executable, "-m", "ti_backbones.cli", "pretrain", *options, "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*program, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    out, rng = tmp_path / "killed", random.Random(1)
    checkpoint = out / "training" / "checkpoint.pt"
    for kills_left in (3, 2, 1, 0):
        before = written(checkpoint)
        run = subprocess.Popen(
            [*program, str(out), "--resume"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if kills_left:
            until(lambda b=before: written(checkpoint) != b)
            time.sleep(rng.uniform(0, 0.3))
            run.send_signal(signal.SIGKILL)
        said = run.communicate()[0].decode()
        assert run.returncode == (-signal.SIGKILL if kills_left else 0)
        assert ("resumed at step" in said) == (kills_left < 3)
    assert [line["step"] for line in log_of(out)] == list(range(1, 2 * STEPS + 1))
    assert_same_run(tmp_path / "whole", out)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(images: Path, tmp_path: Path):
    train(tmp_path / "run", images)
    before = weights(tmp_path / "run")
    train(tmp_path / "run", images, "--resume")
    after = weights(tmp_path / "run")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_what_is_saved_is_the_last_step_s_encoder_and_a_transformer_that_fits_it(images: Path, tmp_path: Path):
    """Drawing and certifying leave the encoder alone, its running statistics too; T alone is fitted once more."""
    train(tmp_path / "run", images)
    state, saved = checkpoint_of(tmp_path / "run")["objective"], tmp_path / "run" / "model.safetensors"
    assert all(torch.equal(v, state[f"ti.encoder.{k}"]) for k, v in load_file(saved).items())
    fitted = load_file(tmp_path / "run" / "latent_transformer.safetensors")
    assert not torch.equal(fitted["weight"], state["ti.latent_transformer.weight"])


def test_another_seed_gives_other_weights(images: Path, tmp_path: Path):
    """So that equality above says something."""
    for seed in (0, 1):
        train(tmp_path / f"{seed}", images, "--seed", seed)
    a, b = (weights(tmp_path / f"{seed}") for seed in (0, 1))
    assert any(not torch.equal(a[k], b[k]) for k in a)


# --- Many processes as one -------------------------------------------------------------------------------------------


def logs_of_one_and_two_processes(images: Path, out: Path, *more) -> list[tuple[dict, dict]]:
    options = options_for(images, "--log-every", 1, "--objective.colour", 0.3, *more, model="convnext_atto")
    for processes in (1, 2):
        ended = command("pretrain", "--out", out / f"{processes}", *options, processes=processes)
        assert ended.code == 0, ended.err
    return list(zip(log_of(out / "1"), log_of(out / "2"), strict=True))


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(images: Path, tmp_path: Path):
    """Under torchrun with gloo, at the same global batch, in float32: within 0.1 % in all, 1 % in each tensor."""
    terms = "loss", "reconstruction", "ordinary", "moving_floor", "latent_floor", "gain", "grad_norm"
    for a, b in logs_of_one_and_two_processes(images, tmp_path, "--objective.alone", 0):
        for key in terms:
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-3), (a["step"], key)
    one, two = (checkpoint_of(tmp_path / f"{n}")["objective"] for n in (1, 2))
    floats = [k for k, v in one.items() if v.is_floating_point()]
    off = {k: ((one[k] - two[k]).norm() / one[k].norm().clamp(min=1e-12)).item() for k in floats}
    assert max(off.values()) < 1e-2, max(off, key=off.__getitem__)
    a, b = (torch.cat([state[k].flatten() for k in floats]) for state in (one, two))
    assert (a - b).norm() < 1e-3 * a.norm()


@pytest.mark.slow
def test_two_processes_fit_the_transformer_where_one_does(images: Path, tmp_path: Path):
    """Rounding decides where T turns what hardly moves after so few steps: the loss, not each weight, is the same."""
    logs = logs_of_one_and_two_processes(images, tmp_path, "--objective.alone", 0.5)
    assert [["transformed" in log for log in pair] for pair in logs] == [[False] * 2] * 5 + [[True] * 2] * (
        len(logs) - 5
    )
    for a, b in logs:
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-2 if "transformed" in a else 1e-3), a["step"]


@pytest.mark.slow
def test_bad_input_under_torchrun_is_said_once(images: Path, tmp_path: Path):
    """More broken images than a run may skip, found by both processes, in the middle of a run."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, path in enumerate(sorted(images.iterdir())):
        (folder / path.name).write_bytes(path.read_bytes()[: 400 if 40 <= i < 46 else None])
    options = options_for(folder, "--cache-gb", 0, "--workers", 0, "--test-data", "embedded?split=test")
    ended = command("pretrain", "--out", tmp_path / "run", *options, processes=2)
    assert ended.code != 0
    ours = [line for line in ended.err.splitlines() if "ti-backbones: error:" in line]
    assert len(ours) == 1
    assert any(f"04{i}.jpg" in ours[0] for i in range(6))
    traces = [line for line in ended.err.splitlines() if "ti_backbones/" in line and "File " in line]
    assert not traces, "a stack trace of ours"


def test_parts_of_a_batch_make_the_same_step(images: Path, tmp_path: Path):
    """Where nothing is a statistic of the batch: reconstruction alone, layer norms. Up to rounding."""
    terms = ("ordinary", "transformed", "moving-floor", "latent-floor")
    off = [o for t in terms for o in (f"--objective.{t}", 0)]
    for parts in (1, 2):
        train(tmp_path / f"{parts}", images, *off, "--accumulate", parts, "--log-every", 1, model="test_convnext")
    one, two = (checkpoint_of(tmp_path / f"{n}")["objective"] for n in (1, 2))
    trained = [k for k in one if "latent_transformer" not in k]  # whose mean is over parts; nothing here uses it
    one, two = (torch.cat([state[k].flatten() for k in trained]) for state in (one, two))
    assert (one - two).norm() < 1e-2 * one.norm()  # Adam magnifies rounding where gradients are tiny
    logs = list(zip(log_of(tmp_path / "1"), log_of(tmp_path / "2"), strict=True))
    assert logs[0][0]["grad_norm"] == pytest.approx(logs[0][1]["grad_norm"], rel=1e-5)
    for a, b in logs:
        assert a["reconstruction"] == pytest.approx(b["reconstruction"], rel=2e-3)


# --- Divergence ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_checkpoint(images: Path, tmp_path: Path):
    out = tmp_path / "run"
    absurd = ("--weight-decay", 1e9, "--lr", 0.9, "--warmup", 0.9, "--checkpoint-every", 1, "--log-every", 1)
    ended = forked("pretrain", "--out", out, *options_for(images, *absurd))
    assert_one_line(ended, "step", out / "training" / "checkpoint.pt", "--resume", "--lr")
    state = checkpoint_of(out)
    assert 1 <= state["step"] < STEPS
    assert all(v.isfinite().all() for v in state["objective"].values())
    assert all(math.isfinite(line["loss"]) for line in log_of(out))
    assert not (out / "model.safetensors").exists()


def test_weights_that_are_not_finite_are_not_saved(images: Path, tmp_path: Path):
    """The step that made them had a finite loss."""
    absurd = ("--weight-decay", 1e300, "--warmup", 0, "--checkpoint-every", 1)
    ended = forked("pretrain", "--out", tmp_path / "run", *options_for(images, *absurd))
    assert_one_line(ended, "is not finite after step 1", "no checkpoint yet")
    assert not (tmp_path / "run" / "training" / "checkpoint.pt").exists()


def test_a_loss_that_is_not_finite_at_once_says_that_there_is_no_checkpoint(images: Path, tmp_path: Path):
    model = timm.create_model("test_convnext", num_classes=0)
    save_file({k: v * 1e30 for k, v in model.state_dict().items()}, tmp_path / "huge.safetensors")
    options = options_for(images, "--init", tmp_path / "huge.safetensors", model="test_convnext")
    ended = forked("pretrain", "--out", tmp_path / "run", *options)
    assert_one_line(ended, "step 1", "no checkpoint yet")
    assert not (tmp_path / "run" / "training" / "checkpoint.pt").exists()


# --- What a run writes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bf16 run with EMA."""
    out = tmp_path_factory.mktemp("finished") / "ti_test_resnet"
    more = ("--precision", "bf16", "--ema", 0.8, "--log-every", 2, "--pictures-every", 4, "--checkpoint-every", 3)
    said = train(out, images, *more)
    (out.parent / "stdout").write_text(said.out)
    (out.parent / "stderr").write_text(said.err)
    return out


def test_the_log_has_every_term_and_the_rate(finished: Path):
    log = log_of(finished)
    assert [line["step"] for line in log] == [2, 4, 6, 8, 9]
    terms = {
        "loss",
        "reconstruction",
        "ordinary",
        "moving_floor",
        "latent_floor",
        "gain",
        "moving_share",
    }
    assert all(line.keys() >= terms | {"epoch", "lr", "grad_norm", "images_per_s"} for line in log)
    assert ["transformed" in line for line in log] == [False] * 2 + [True] * 3, "asked from the second half on"
    assert log[-1]["lr"] < log[0]["lr"]
    assert log[-1]["epoch"] == 1


def test_tensorboard_reads_the_same_numbers(finished: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "training" / "tensorboard"))
    events.Reload()
    shown = [(e.step, e.value) for e in events.Scalars("loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in log_of(finished)]


def test_pictures_are_grids_of_four_rows(finished: Path):
    pictures = sorted((finished / "training").glob("*.png"))
    assert [p.name for p in pictures] == ["views-000004.png", "views-000008.png", "views-000009.png"]
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            # three test images of 96 px in each row, beside the rows' names
            assert (picture.width - 3 * 96, picture.height) == (118, 4 * 96)
            assert len(picture.getcolors(2**24)) > 100


def test_progress_shows_images_per_second_and_the_time_left(finished: Path):
    text = (finished.parent / "stderr").read_text()
    assert "img/s" in text
    assert "<" in text
    said = (finished.parent / "stdout").read_text()
    assert "9 steps, 144 views, bf16, 1 process" in said
    assert "gain over doing nothing" in said


def test_the_average_is_what_is_saved(finished: Path):
    """The EMA's weights, and not the last step's."""
    state, saved = checkpoint_of(finished), load_file(finished / "model.safetensors")
    for name, value in saved.items():
        assert torch.equal(value, state["ema"][f"module.encoder.{name}"]), name
    assert any(not torch.equal(v, state["objective"][f"ti.encoder.{k}"]) for k, v in saved.items())


def test_the_model_loads_in_every_way(finished: Path, monkeypatch: pytest.MonkeyPatch):
    ti = TIBackbone.from_pretrained(finished)
    x = torch.randn(2, 3, 32, 32)
    monkeypatch.setenv("TI_BACKBONES_HUB", str(finished.parent))
    others = [
        timm.create_model(f"local-dir:{finished}", pretrained=True, num_classes=0),
        timm.create_model("ti_test_resnet", pretrained=True),
        timm.create_model("ti_test_resnet", pretrained=True, latent_transformer=True),
        TIBackbone.from_pretrained("ti_test_resnet"),
    ]
    with torch.no_grad():
        z = ti(x)
        for other in others:
            assert torch.equal(other.eval()(x), z)
    assert ti.metadata["training"]["size"] == 32
    assert ti.metadata["training"]["views"] == 144
    assert ti.metadata["certificate"]["images"] == 3
    assert json.loads((finished / "certificate.json").read_text())["gain"] == ti.metadata["certificate"]["gain"]


def test_the_card_says_what_was_measured_and_nothing_of_timms_weights(finished: Path):
    certificate = json.loads((finished / "certificate.json").read_text())
    card = (finished / "README.md").read_text()
    assert f"| gain | {certificate['gain']:.3g} |" in card
    assert "synthetic" not in card  # which is said of the embedded set alone
    cfg = json.loads((finished / "config.json").read_text())["pretrained_cfg"]
    assert not {"tag", "license", "origin_url", "paper_ids"} & cfg.keys()


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    rates = [learning_rate(s, 100, 1.0, 0.1) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_weight_decay_spares_what_it_should():
    config = PretrainConfig(Path("unused"), "test_vit", size=32, weight_decay=0.1)
    objective = build(config)
    decay = {id(p): g["weight_decay"] for g in make_optimiser(objective, config).param_groups for p in g["params"]}
    by_name = {name: decay[id(p)] for name, p in objective.named_parameters()}
    spared = {name for name, value in by_name.items() if value == 0}
    assert {"ti.encoder.pos_embed", "ti.encoder.cls_token", "ti.latent_transformer.weight"} <= spared
    assert all(name in spared for name, p in objective.named_parameters() if p.ndim < 2)
    assert by_name["ti.encoder.blocks.0.attn.qkv.weight"] == by_name["decoder.stem.weight"] == 0.1


def test_the_encoder_s_learning_rate_is_a_share():
    config = PretrainConfig(Path("unused"), "test_vit", size=32, lr=0.1, warmup=0.0, encoder_lr=0.2)
    objective = build(config)
    optimiser = make_optimiser(objective, config)
    set_learning_rate(optimiser, learning_rate(0, 100, config.lr, config.warmup))
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    for name, p in objective.named_parameters():
        assert rates[id(p)] == pytest.approx(0.02 if name.startswith("ti.encoder.") else 0.1), name
    assert optimiser.param_groups[0]["lr"] == 0.1, "the one that is logged"


# --- Where it starts from --------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, model: torch.nn.Module, form: str) -> None:
    """A timm checkpoint as a person may have one."""
    state = model.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "timm training":  # what timm's train.py writes, options included
        torch.save({"epoch": 3, "arch": "x", "state_dict": state, "args": argparse.Namespace(lr=0.1)}, path)
    elif form == "data parallel":
        torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("form", ["safetensors", "plain", "timm training", "data parallel"])
def test_it_starts_from_a_plain_timm_checkpoint(form, classes, images: Path, tmp_path: Path):
    model = timm.create_model("test_convnext", num_classes=classes)
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    write_checkpoint(path, model, form)
    objective = build(PretrainConfig(tmp_path / "run", "test_convnext", init=str(path), size=32))
    own, given = objective.ti.encoder.state_dict(), model.state_dict()
    assert all(torch.equal(own[k], given[k]) for k in own)
    assert len(own) == len(given) - (2 if classes else 0)


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_what_has_grown_is_the_plain_architecture_at_the_last_size(model, images: Path, tmp_path: Path):
    train(tmp_path / "run", images, "--grow", "32:0.4,64:0.3", "--size", 96, model=model)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "dynamic_img_size" not in config.get("model_args", {})
    assert config["ti_backbones"]["training"]["grow"] == "32:0.4,64:0.3"
    plain = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert plain(torch.zeros(1, 3, 96, 96)).shape == (1, plain.num_features)


def test_sizes_change_at_their_shares():
    config = PretrainConfig(Path("x"), grow="32:0.5,64:0.25", size=96)
    assert [config.size_at(step, 8) for step in range(8)] == [32] * 4 + [64] * 2 + [96] * 2
    assert PretrainConfig(Path("x"), size=96).size_at(0, 1) == 96
    half = PretrainConfig(Path("x"), grow="64:0.3,96:0.7", size=128)
    with pytest.raises(InputError, match="--grow"):
        half.check()


def test_the_autoencoder_gets_a_representation_fitted_afterwards(images: Path, tmp_path: Path):
    """Its own was not trained: a fitted one explains more, and the encoder learns nothing from it."""
    out = tmp_path / "run"
    train(out, images, "--preset", "autoencoder", "--epochs", 6)
    ti = TIBackbone.from_pretrained(out)
    untrained = TIBackbone("test_resnet").latent_transformer
    test = load_all(open_data(f"folder:{images}"), 32).images
    fitted = isomorphism.certify_backbone(ti, test).gain
    ti.latent_transformer = untrained
    assert fitted > isomorphism.certify_backbone(ti, test).gain


def test_it_starts_from_a_model_folder(images: Path, finished: Path, tmp_path: Path):
    train(tmp_path / "run", images, "--init", finished, "--lr", 1e-9, "--clip", 1e-9)
    a, b = (load_file(folder / "model.safetensors") for folder in (finished, tmp_path / "run"))
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a if "running" not in k and "num_batches" not in k)


# --- Other data, other architectures ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_shards_and_the_embedded_set_train(images: Path, tmp_path: Path):
    shard = Path(str(open_data("embedded", "test").paths[0]))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(shard.read_bytes())
    pattern = f"shards:{tmp_path}/shards/*.tar"
    for data, held_out in (("embedded", "500 images of embedded?split=test"), (pattern, "25 images of shards:")):
        ended = train(tmp_path / data[:6], images, "--data", data, "--batch", 256)
        assert f"images of {data}" in ended.out
        assert f"certificate on {held_out}" in ended.out or "kept out of training" in ended.out


@pytest.mark.parametrize("workers", [0, 2])
def test_images_read_as_they_are_needed_give_the_same_weights(workers, images: Path, tmp_path: Path):
    train(tmp_path / "memory", images)
    train(tmp_path / "disk", images, "--cache-gb", 0, "--workers", workers)
    assert_same_run(tmp_path / "memory", tmp_path / "disk")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "more"),
    [
        ("vit_tiny_patch16_224", 64, ()),
        ("vit_tiny_patch16_224", 64, ("--preset", "paper")),
        ("swin_tiny_patch4_window7_224", 64, ("--objective.decode", "map")),
        ("mobilenetv3_small_050", 64, ("--preset", "paper", "--objective.decode", "pooled")),
        ("convnext_atto", 64, ("--precision", "bf16")),
        ("efficientnet_b0", 64, ("--objective.decode", "map")),
        ("ti_resnet18", 64, ("--objective.frame", "crop")),
    ],
)
def test_other_architectures_train(model, size, more, images: Path, tmp_path: Path):
    train(tmp_path / "run", images, "--size", size, "--batch", 32, *more, model=model)
    assert [line["step"] for line in log_of(tmp_path / "run")] == [2]
    ti = TIBackbone.from_pretrained(tmp_path / "run")
    assert ti(torch.randn(1, 3, size, size)).shape == (1, ti.latent_dim)
