"""Fine-tuning, run for real: what is trained, resuming to the bit, many processes as one, and what is left behind."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hands import write_shard
from PIL import Image
from running import Forked, command, forked, until
from safetensors.torch import load_file
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from ti_backbones import cli, o2
from ti_backbones.backbone import TIBackbone
from ti_backbones.data import open_data
from ti_backbones.data.broken import Tally
from ti_backbones.errors import InputError
from ti_backbones.pose import metrics
from ti_backbones.pose.data import InMemory, load, split_validation
from ti_backbones.pose.heads import make
from ti_backbones.pose.model import PoseModel, PoseSpec, load_pose_model
from ti_backbones.pose.objective import pose_loss
from ti_backbones.pose.predict import drawing
from ti_backbones.pose.probe import PENALTIES, fit_probe
from ti_backbones.pose.recipe import PRESETS, Recipe
from ti_backbones.pose.training import Fit, predict, score

FEW = ("--recipe.epochs", 2, "--recipe.min-steps", 8, "--recipe.batch", 8, "--recipe.width", 32)
SMALL = ("--init", "random", "--size", 32, "--precision", "fp32", "--device", "cpu", "--workers", 0)


@pytest.fixture(scope="session")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of 44 labelled hands, of 11 identities."""
    path = tmp_path_factory.mktemp("hands") / "hands.tar"
    return write_shard(path, 44, lambda i, label: label.update(extra={"identity": i % 11}))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TI model folder."""
    folder = tmp_path_factory.mktemp("backbones") / "ti_test_resnet"
    torch.manual_seed(0)
    ti = TIBackbone("test_resnet", latent_config={"rank": 24})
    ti.metadata = {"training": {"size": 32, "objective": {"frame": "disc"}}}
    ti.save_pretrained(folder)
    return folder


def options_for(hands: Path, *more, model: str | Path = "test_resnet") -> tuple:
    return ("--model", model, "--data", f"shards:{hands}", *SMALL, *FEW, *more)


def finetune(out: Path, hands: Path, *more, model: str | Path = "test_resnet") -> str:
    ended = forked("finetune", "--out", out, *options_for(hands, *more, model=model))
    assert ended.code == 0, ended.err
    return ended.out


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.suffix != ".png"}


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]


# --- Resuming, other processes, other sources ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ("--recipe.flip",),
        pytest.param(
            ("--recipe.mode", "frozen", "--recipe.augment", "latent", "--recipe.head", "equivariant"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("--cache-gb", 0, "--workers", 1, "--recipe.dropout", 0.5), marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_run_ends_with_the_same_bits(more, hands: Path, tmp_path: Path):
    often = ("--recipe.epochs", 4, "--checkpoint-every", 2, "--log-every", 1, *more)
    finetune(tmp_path / "whole", hands, *often)
    out = tmp_path / "killed"
    checkpoint, resumed = out / "training" / "checkpoint.pt", []
    for kill in (True, True, False):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        run = Forked(["finetune", "--out", out, *options_for(hands, *often), "--resume"])
        if kill:
            until(lambda b=before, r=run: r.ended() or (checkpoint.exists() and checkpoint.stat().st_mtime_ns != b))
            time.sleep(0.02)
            if not run.ended():
                run.send(signal.SIGKILL)
        ended = run.wait()
        if "resumed at step" in ended.out:
            resumed.append(int(ended.out.partition("resumed at step ")[2].split()[0]))
    assert ended.code == 0, ended.err
    print("resumed at steps", resumed)
    assert any(0 < step < 20 for step in resumed)
    assert files_of(tmp_path / "whole") == files_of(out)
    assert log_of(tmp_path / "whole") == log_of(out)
    assert not list(out.rglob(".*")), "temporary files are left"


@pytest.mark.parametrize(
    "more", [(), pytest.param(("--recipe.mode", "linear", "--recipe.augment", "none"), marks=pytest.mark.slow)]
)
def test_hands_read_as_they_are_needed_give_the_same_weights(more, hands: Path, tmp_path: Path):
    finetune(tmp_path / "memory", hands, *more)
    finetune(tmp_path / "disk", hands, "--cache-gb", 0, *more)
    assert files_of(tmp_path / "memory") == files_of(tmp_path / "disk")


@pytest.mark.slow
def test_another_seed_gives_other_weights(hands: Path, tmp_path: Path):
    """So that equality above says something."""
    for seed in (0, 1):
        finetune(tmp_path / f"{seed}", hands, "--seed", seed)
    a, b = (load_file(tmp_path / f"{seed}" / "pose_head.safetensors") for seed in (0, 1))
    assert any(not torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(hands: Path, tmp_path: Path):
    """Under torchrun with gloo, at the same global batch, in float32, without batch statistics or dropout."""
    options = options_for(hands, "--recipe.dropout", 0, "--log-every", 1, model="test_convnext")
    for processes in (1, 2):
        ended = command("finetune", "--out", tmp_path / f"{processes}", *options, processes=processes)
        assert ended.code == 0, ended.err
    for a, b in zip(log_of(tmp_path / "1"), log_of(tmp_path / "2"), strict=True):
        for key in ("loss", "l1", "aligned_l1"):
            assert a[key] == pytest.approx(b[key], rel=2e-3), (a["step"], key)
    curves = [json.loads((tmp_path / f"{n}" / "validation.json").read_text()) for n in (1, 2)]
    for a, b in zip(*curves, strict=True):
        assert a["mpjpe"] == pytest.approx(b["mpjpe"], rel=2e-3)


# --- What is trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "frozen", "linear"])
@pytest.mark.parametrize("augment", ["image", pytest.param("none", marks=pytest.mark.slow)])
def test_only_what_should_be_trained_is(mode: str, augment: str, hands: Path, backbone: Path, tmp_path: Path):
    more = ("--init", "pretrained", "--recipe.mode", mode, "--recipe.augment", augment)
    finetune(tmp_path / "run", hands, *more, model=backbone)
    before, after = (load_file(folder / "model.safetensors") for folder in (backbone, tmp_path / "run"))
    same = [torch.equal(before[k], after[k]) for k in before]
    assert all(same) if mode != "full" else not any(same[:3])
    head = json.loads((tmp_path / "run" / "pose.json").read_text())
    assert head["head"] == ("linear" if mode == "linear" else "articulated")
    assert (head["size"], head["frame"]) == (32, "disc")  # as the backbone was trained
    transformers = [load_file(f / "latent_transformer.safetensors") for f in (backbone, tmp_path / "run")]
    assert all(torch.equal(transformers[0][k], transformers[1][k]) for k in transformers[0])
    assert TIBackbone.from_pretrained(tmp_path / "run").latent_dim == timm.create_model("test_resnet").num_features


@pytest.mark.slow
def test_a_latent_transformer_is_fitted_for_a_model_that_has_none(hands: Path, tmp_path: Path):
    finetune(tmp_path / "run", hands, "--recipe.head", "equivariant", "--recipe.mode", "frozen")
    model = load_pose_model(tmp_path / "run")
    assert model.transformer is not None
    z, g = torch.randn(5, model.transformer.dim), o2.sample(5)
    side = torch.tensor([1.0, -1, 0, 1, 1])
    with torch.no_grad():
        moved = model.pose(model.transformer(z, g), torch.where(g.flip, -side, side))
        expected = o2.act_on_joints(g, model.pose(z, side))
    assert (moved - expected).norm() < 1e-5 * expected.norm()


def test_the_best_weights_by_validation_are_kept(hands: Path, tmp_path: Path):
    """And they give the recorded errors on the validation hands, which share no identity with training."""
    finetune(tmp_path / "run", hands, "--recipe.lr", 0.05, "--recipe.epochs", 5)
    curve = json.loads((tmp_path / "run" / "validation.json").read_text())
    best = min(curve, key=lambda r: r["mpjpe"] + r["pa_mpjpe"])
    record = json.loads((tmp_path / "run" / "pose.json").read_text())["record"]
    assert record["validation"]["step"] == best["step"]
    _, held, how = split_validation(open_data(f"shards:{hands}"), 0.1, 0)
    assert record["validation"]["data"] == how
    assert "identity" in how
    validation = load(held, 32)
    model = load_pose_model(tmp_path / "run")
    error = metrics.mpjpe(predict(model, validation), validation.tensors["joints"]).mean().item()
    assert error == pytest.approx(best["mpjpe"], abs=1e-3)


def test_labels_limit_the_training_set(hands: Path, tmp_path: Path):
    said = finetune(tmp_path / "run", hands, "--labels", 0.25)
    assert "on 10 hands of" in said
    assert "validation: 4 hands" in said


def test_unlabelled_joints_do_not_matter(tmp_path: Path):
    """Whatever stands there."""
    runs = []
    for value in (0.0, 1000.0):

        def change(i: int, label: dict, value=value) -> None:
            label["valid"] = [int(j not in (3, 8)) for j in range(21)]
            for j in (3, 8):
                label["joints_mm"][j] = [value, value, value + 1]

        path = write_shard(tmp_path / f"{value}.tar", 20, change)
        finetune(tmp_path / f"run{value}", path)
        runs.append(load_file(tmp_path / f"run{value}" / "pose_head.safetensors"))
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


# --- Fit, on tensors -------------------------------------------------------------------------------------------------


def latent_hands(count: int, seed: int, noise: float = 0.0) -> InMemory:
    """Hands whose latents (40 wide) hold their joints, by a fixed linear map."""
    rng = torch.Generator().manual_seed(seed)
    joints = torch.randn(count, 21, 3, generator=rng) * 40
    joints = joints - joints[:, :1]
    mix = torch.linalg.qr(torch.randn(64, 60, generator=torch.Generator().manual_seed(9)))[0].T
    z = joints[:, 1:].flatten(1) @ mix / 40 + torch.randn(count, 64, generator=rng) * noise
    tensors = {"latent": z, "joints": joints, "valid": torch.ones(count, 21, dtype=torch.bool)}
    tensors |= {"side": torch.ones(count), "mirrored": torch.zeros(count, dtype=torch.bool)}
    return InMemory(tensors | {"index": torch.arange(count)}, Tally(count, "made"))


def bare_model(head: str = "mlp", **options) -> PoseModel:
    torch.manual_seed(0)
    encoder = timm.create_model("test_resnet", num_classes=0)
    return PoseModel(encoder, None, make(head, 64, **options), PoseSpec(32, "full"))


def test_a_linear_probe_is_ridge_regression():
    """Its predictions are scikit-learn's, for the penalty that is best on validation, in any basis of the latent."""
    train, validation = latent_hands(200, 0, noise=0.5), latent_hands(100, 1, noise=0.5)
    model = bare_model("linear")
    records = fit_probe(model, train, validation)
    best = min(records, key=score)
    assert PENALTIES[0] < best["penalty"] < PENALTIES[-1]
    z, joints = train.tensors["latent"].double(), train.tensors["joints"].double()
    scale = StandardScaler().fit(z)
    ridge = Ridge(alpha=best["penalty"] * len(z)).fit(scale.transform(z), joints.flatten(1))
    theirs = ridge.predict(scale.transform(validation.tensors["latent"].double()))
    ours = predict(model, validation)
    assert np.abs(ours.flatten(1).numpy() - theirs).max() < 0.1
    assert metrics.mpjpe(ours, validation.tensors["joints"]).mean().item() == pytest.approx(best["mpjpe"], abs=1e-3)

    turn = torch.linalg.qr(torch.randn(64, 64))[0] @ torch.diag(torch.logspace(0, -2, 64))
    turn = turn @ torch.linalg.qr(torch.randn(64, 64))[0]
    skewed = [hands.take(range(len(hands))) for hands in (train, validation)]
    for hands in skewed:
        hands.tensors["latent"] = hands.tensors["latent"] @ turn
    again = min(fit_probe(bare_model("linear"), *skewed), key=score)
    assert again["mpjpe"] == pytest.approx(best["mpjpe"], rel=0.1)


def test_a_linear_probe_needs_whole_hands():
    train = latent_hands(20, 0)
    train.tensors["valid"][:, 7] = False
    with pytest.raises(InputError, match="no training hand has all joints"):
        fit_probe(bare_model("linear"), train, latent_hands(10, 1))


def test_a_fit_on_latents_learns():
    """A map that a linear head can hold: the error falls far below that of predicting nothing."""
    recipe = Recipe(mode="linear", augment="none", aligned=0.0, min_steps=400, epochs=1, lr=0.02)
    train, validation = latent_hands(512, 0), latent_hands(100, 1)
    model = bare_model("linear")
    fit = Fit(model, train, validation, recipe)
    curve = fit.run(bar=False).curve
    nothing = metrics.mpjpe(torch.zeros(100, 21, 3), validation.tensors["joints"]).mean()
    assert fit.best_record["mpjpe"] < 0.1 * nothing
    assert [r["epoch"] for r in curve] == list(range(1, fit.epochs + 1))
    assert curve[-1]["pa_mpjpe"] < curve[0]["pa_mpjpe"]


def test_a_fit_repeats_itself():
    recipe = Recipe(mode="frozen", augment="none", min_steps=20, epochs=1)
    curves = [Fit(bare_model(), latent_hands(64, 0), latent_hands(20, 1), recipe, 3).run(bar=False).curve for _ in "ab"]
    assert curves[0] == curves[1]
    other = Fit(bare_model(), latent_hands(64, 0), latent_hands(20, 1), recipe, 4).run(bar=False).curve
    assert other != curves[0]


def test_few_hands_are_trained_on_for_more_epochs():
    recipe = Recipe(mode="frozen", augment="none", min_steps=50, epochs=2, batch=64)
    fit = Fit(bare_model(), latent_hands(10, 0), latent_hands(20, 1), recipe)
    assert (fit.batch, fit.per_epoch, fit.epochs, fit.steps) == (10, 1, 50, 50)
    fit = Fit(bare_model(), latent_hands(640, 0), latent_hands(20, 1), recipe)
    assert (fit.batch, fit.per_epoch, fit.epochs, fit.steps) == (64, 10, 5, 50)


def test_the_loss_is_the_definition():
    rng = torch.Generator().manual_seed(0)
    prediction, bent, target = (torch.randn(6, 21, 3, generator=rng, dtype=torch.float64) * 40 for _ in range(3))
    valid = torch.rand(6, 21, generator=rng) < 0.7
    valid[:, 0] = True
    terms = pose_loss(prediction, bent, torch.where(valid[..., None], target, torch.nan), valid, 0.5)
    l1, aligned = [], []
    moved = metrics.procrustes(bent, target, valid)
    for i in range(6):
        l1.append((prediction[i, valid[i]] - target[i, valid[i]]).abs().mean() / 100)
        aligned.append((moved[i, valid[i]] - target[i, valid[i]]).abs().mean() / 100)
    assert torch.allclose(terms["l1"], torch.stack(l1).mean())
    assert torch.allclose(terms["aligned_l1"], torch.stack(aligned).mean())
    assert torch.allclose(terms["loss"], terms["l1"] + 0.5 * terms["aligned_l1"])
    assert "aligned_l1" not in pose_loss(prediction, bent, target, valid, 0.0)


def test_the_papers_recipe():
    """PAPER: 120 epochs, batch 128, AdamW at a constant 7.5e-4 without weight decay, L1, its own head."""
    recipe = PRESETS["paper"]
    recipe.check()
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.weight_decay) == (120, 128, 7.5e-4, 0)
    assert (recipe.schedule, recipe.warmup, recipe.layer_decay, recipe.aligned) == ("constant", 0, 1, 0)
    assert (recipe.head, recipe.augment, recipe.mode) == ("paper", "none", "full")
    train = latent_hands(256, 0)
    rates = []
    fit = Fit(bare_model("paper"), train, latent_hands(9, 1), replace(recipe, mode="frozen", epochs=2))
    fit.run(lambda f, terms, validated: rates.append(f.optimiser.param_groups[0]["lr"]), bar=False)
    assert rates == [7.5e-4] * 4
    widths = [m.out_features for m in fit.model.head.modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [1024, 1024, 60]


def test_layers_have_learning_rates_of_their_own(hands: Path):
    model = bare_model()
    recipe = Recipe(layer_decay=0.5, batch=8)
    fit = Fit(model, load(open_data(f"shards:{hands}"), 32), latent_hands(2, 0), recipe)
    scale = {id(p): g.get("lr_scale", 1.0) for g in fit.optimiser.param_groups for p in g["params"]}
    assert scale.keys() == {id(p) for p in model.parameters()}
    assert all(scale[id(p)] == 1 for p in model.head.parameters())
    named = {name: scale[id(p)] for name, p in model.encoder.named_parameters()}
    assert named["conv1.weight" if "conv1.weight" in named else next(iter(named))] < named[list(named)[-1]] <= 1


# --- From end to end -------------------------------------------------------------------------------------------------


def test_finetune_then_evaluate_then_predict(hands: Path, images: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    said = finetune(run, hands, "--recipe.head", "equivariant")
    assert "best by validation: epoch" in said
    test = ("--data", f"shards:{hands}", "--device", "cpu", "--workers", "0")
    assert cli.main(["evaluate", str(run), *test, "--angles", "4", "--angles-limit", "8"]) == 0
    table = capsys.readouterr().out
    assert table.index("PA-MPJPE (rotation only)") < table.index("MPJPE (root-relative)") < table.index("official")
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["hands"] == 44
    assert len(results["samples"]) == 44
    mean = np.mean([s["pa_mpjpe"] for s in results["samples"]])
    assert mean == pytest.approx(results["mpjpe"]["proper"], abs=1e-6)
    assert f"{results['mpjpe']['proper']:.2f}" in table
    assert results["rotation"]["angles_deg"] == [0, 90, 180, 270]
    for name in ("hands.png", "pck.png"):
        with Image.open(run / "evaluation" / name) as picture:
            picture.load()
            assert len(picture.getcolors(2**24)) > 100
    theirs = copy.deepcopy(results)
    more = np.random.default_rng(0).uniform(0, 4, 44)
    for sample, mm in zip(theirs["samples"], more, strict=True):
        sample["mpjpe"] += mm
    theirs["samples"].reverse()  # the same hands in another order
    (tmp_path / "results.json").write_text(json.dumps(theirs))
    assert cli.main(["evaluate", str(run), *test, "--against", str(tmp_path)]) == 0
    said = json.loads((run / "evaluation" / "results.json").read_text())["against"]
    interval = stats.norm.interval(0.95, more.mean(), stats.sem(more))
    assert [said["mpjpe"]["low"], said["mpjpe"]["high"]] == pytest.approx(interval, abs=1e-3)
    assert said["mpjpe"]["theirs"] == pytest.approx(results["mpjpe"]["root"] + more.mean(), abs=1e-3)
    assert said["pa_mpjpe"]["low"] == pytest.approx(said["pa_mpjpe"]["high"], abs=1e-3)
    assert f"MPJPE {results['mpjpe']['root']:.2f} against" in capsys.readouterr().out
    out = tmp_path / "predicted"
    assert cli.main(["predict", str(run), str(images), "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads((out / "joints.json").read_text())["hands"]
    assert len(found) == len(list((out / "drawings").glob("*.png"))) == 76
    assert np.shape(found["000.jpg"]["joints_mm"]) == (21, 3)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("key", "file"),
    [("a/b.jpg", "a/b.jpg.png"), ("b.0001", "b.0001.png"), ("../../etc/x", "etc/x.png"), ("/root/x", "root/x.png")],
)
def test_each_drawing_has_its_own_file_below_the_folder(key: str, file: str):
    assert drawing(key) == file


def test_a_left_hands_prediction_is_that_of_its_mirror_image(hands: Path, images: Path, tmp_path: Path, capsys):
    finetune(tmp_path / "run", hands)
    with Image.open(images / "000.jpg") as image:
        image.save(tmp_path / "right.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "left.png")
    joints = []
    for side in ("right", "left"):
        options = ["--out", str(tmp_path / side), "--side", side, "--no-draw", "--device", "cpu"]
        assert cli.main(["predict", str(tmp_path / "run"), str(tmp_path / f"{side}.png"), *options]) == 0
        hand = json.loads((tmp_path / side / "joints.json").read_text())["hands"][f"{side}.png"]
        assert hand["side"] == side
        joints.append(np.array(hand["joints_mm"]))
    assert np.allclose(joints[1], joints[0] * [-1, 1, 1], atol=2e-3)
    assert not (tmp_path / "left" / "drawings").exists()


def test_the_log_has_losses_rates_and_validation(hands: Path, tmp_path: Path):
    finetune(tmp_path / "run", hands, "--log-every", 1)
    log = log_of(tmp_path / "run")
    assert [line["step"] for line in log] == list(range(1, len(log) + 1))
    assert all(math.isfinite(line[k]) for line in log for k in ("loss", "l1", "aligned_l1", "grad_norm", "lr"))
    validated = [line["step"] for line in log if "val_pa_mpjpe" in line]
    assert validated == [r["step"] for r in json.loads((tmp_path / "run" / "validation.json").read_text())]
