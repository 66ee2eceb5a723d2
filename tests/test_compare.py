"""The comparison: laws of its methods, equal budgets counted for real, and cells that survive a stop."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hands import write_shard
from running import Forked

from ti_backbones import o2
from ti_backbones.compare import run as comparing
from ti_backbones.compare.config import ALL, CompareConfig
from ti_backbones.compare.contrastive import NUMBERS, blur, drop_colour, jitter, motion, nt_xent, random_crop, undo
from ti_backbones.compare.finetuning import Sets, reference
from ti_backbones.compare.methods import METHODS
from ti_backbones.compare.pretraining import Diverged, Machine, Pretraining
from ti_backbones.compare.report import Report, epochs_to, summarise
from ti_backbones.data import open_data
from ti_backbones.data.order import uniforms
from ti_backbones.errors import InputError
from ti_backbones.pose.augment import place
from ti_backbones.pose.data import InMemory, open_hands
from ti_backbones.pose.recipe import Recipe
from ti_backbones.pose.training import score

CPU = Machine(torch.device("cpu"), bf16=False)
ROWS = ("", ", articulated", ", equivariant", ", latent")
PRETRAINED = [name for name, method in METHODS.items() if method.views]


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of 44 labelled hands, of 11 identities."""
    path = tmp_path_factory.mktemp("hands") / "hands.tar"
    return write_shard(path, 44, lambda i, label: label.update(extra={"identity": i % 11}))


def config_for(hands: Path, out: Path, **more) -> CompareConfig:
    """A comparison of a few steps, at 32 px."""
    few = Recipe(epochs=2, min_steps=4, batch=8, width=16)
    options: dict[str, Any] = {"data": f"shards:{hands}", "model": "test_resnet", "size": 32, "batch_views": 28}
    options |= {
        "labels": "0.5,1",
        "label_seeds": "2,1",
        "lrs": "1.5e-3",
        "recipe": few,
        "precision": "fp32",
        "device": "cpu",
    }
    return CompareConfig(out, 60, **options | {"workers": 0, "angles": 2} | more)


@pytest.fixture(scope="module")
def sets(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return comparing.open_sets(config_for(hands, tmp_path_factory.mktemp("sets")))


def cells_of(out: Path) -> dict[str, Any]:
    """Every cell, without the time it took."""
    cells = {p.stem: json.loads(p.read_text()) for p in sorted((out / "cells").glob("[!.]*.json"))}
    for cell in cells.values():
        cell.pop("seconds", None)
    return cells


# --- Losses ----------------------------------------------------------------------------------------------------------


def test_the_contrastive_loss_is_simclrs_equation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 16))
    z = np.concatenate([a, b])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similar, n = z @ z.T / 0.5, len(z)
    expected = 0.0
    for i in range(n):
        positive = similar[i, (i + n // 2) % n]
        expected += np.log(sum(np.exp(similar[i, k]) for k in range(n) if k != i)) - positive
    got = nt_xent()(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert got == pytest.approx(expected / n, rel=1e-6)


def test_peclr_undoes_what_it_did_to_the_image():
    """A network that finds bright spots gives the same points for every view, once the geometry is undone."""
    size, u = 96, uniforms(0, 0, 16, NUMBERS)
    spots = torch.tensor([[0.1, 0.2], [-0.25, 0.05], [0.15, -0.3]])
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    distance = (at[None, None, :] - spots[:, 0, None, None]) ** 2 + (at[None, :, None] - spots[:, 1, None, None]) ** 2
    views = place(torch.exp(-distance / 0.002).expand(16, 3, size, size), *_by_place(u))
    mass = views.sum((2, 3))
    found = torch.stack([(views.sum(2) * at).sum(2) / mass, (views.sum(3) * at).sum(2) / mass], 2)
    assert (found - spots).abs().max() > 0.1, "the views must differ"
    torch.testing.assert_close(undo(found, *motion(u)), spots.expand(16, 3, 2), atol=2e-3, rtol=0)


def test_peclrs_projections_of_an_equivariant_network_are_identical_after_undoing():
    g, zoom, shift = motion(uniforms(1, 0, 32, NUMBERS).double())
    source = torch.randn(32, 64, 2, dtype=torch.float64)
    seen = o2.act_on_points(g, source) * zoom[:, None, None] + 2 * shift[:, None]
    torch.testing.assert_close(undo(seen, g, zoom, shift), source, atol=1e-12, rtol=0)


def _by_place(u):
    g, zoom, shift = motion(u)
    return g, "full", zoom, shift


def test_augmentations_keep_images_in_range_and_differ_by_their_numbers_only():
    images, u = torch.rand(8, 3, 32, 32), uniforms(0, 0, 8, NUMBERS)
    for change, columns in (
        (random_crop, u[:, :5]),
        (jitter, u[:, 5:10]),
        (drop_colour, u[:, 10]),
        (blur, u[:, 11:13]),
    ):
        out = change(images, columns)
        assert out.shape == images.shape
        assert out.min() >= -1e-5
        assert out.max() <= 1 + 1e-5
        torch.testing.assert_close(
            out, torch.cat([change(x[None], v[None]) for x, v in zip(images, columns, strict=True)])
        )
        assert not torch.equal(out, images)
    middle = torch.full((8, 5), 0.5)
    torch.testing.assert_close(jitter(images, middle), images, atol=1e-5, rtol=0)
    whole = torch.tensor([1 - 1e-9, 0.5, 0.5, 0.5, 1.0], dtype=torch.float64).expand(8, 5)
    torch.testing.assert_close(random_crop(images, whole), images, atol=1e-4, rtol=0)


def test_blur_is_a_gaussian():
    image = torch.zeros(1, 1, 112, 112)
    image[0, 0, 56, 56] = 1
    out, sigma = blur(image, torch.tensor([[0.6, 0.0]]))[0, 0], (0.1 + 1.9 * 0.6) / 2  # half of what it is at 224
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    assert (out[56, 57] / out[56, 56]).item() == pytest.approx(np.exp(-0.5 / sigma**2), rel=1e-4)


# --- One budget ------------------------------------------------------------------------------------------------------


def test_every_method_starts_from_the_same_encoder_and_shows_it_as_many_views(hands: Path, sets: Sets, tmp_path: Path):
    """In training; what a representation is fitted on, for TI halfway and for its rivals afterwards, is not counted."""
    config, seen, starts = config_for(hands, tmp_path), {}, {}
    for name in ["scratch", *PRETRAINED]:
        work = Pretraining(config, name, 0, sets.train, CPU)
        encoder: Any = work.ti.encoder
        starts[name] = {k: v.clone() for k, v in encoder.state_dict().items()}
        forward, count = encoder.forward_features, []

        def counted(x, *rest, forward=forward, count=count, encoder=encoder, **more):
            count.append(len(x) * encoder.training)
            return forward(x, *rest, **more)

        encoder.forward_features = counted
        inner = encoder.forward_intermediates

        def counted_too(x, *rest, inner=inner, count=count, encoder=encoder, **more):
            count.append(len(x) * encoder.training)
            return inner(x, *rest, **more)

        encoder.forward_intermediates = counted_too
        record = work.run()
        seen[name] = sum(count)
        assert record["views"] == seen[name]
        moved = any(not torch.equal(v, starts[name][k]) for k, v in encoder.state_dict().items())
        assert moved == (name != "scratch")
    assert set(seen.values()) == {0, 56}
    assert all(seen[name] == 56 for name in PRETRAINED)
    for state in starts.values():
        assert all(torch.equal(v, starts["scratch"][k]) for k, v in state.items())


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretraining_stopped_after_a_checkpoint_ends_with_the_same_bits(
    name: str, hands: Path, sets: Sets, tmp_path: Path
):
    config = replace(config_for(hands, tmp_path / "whole"), budget_views=3 * 28)
    whole = Pretraining(config, name, 0, sets.train, CPU)
    record = whole.run()
    config = replace(config, out=tmp_path / "stopped", checkpoint_minutes=1e-9)
    stopped = Pretraining(config, name, 0, sets.train, CPU)
    train_step = stopped._train_step

    def once(images):
        if stopped.step:
            raise KeyboardInterrupt
        return train_step(images)

    stopped._train_step = once
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = Pretraining(config, name, 0, sets.train, CPU)
    again = resumed.run()
    assert {**record, "seconds": 0} == {**again, "seconds": 0}
    assert all(torch.equal(v, resumed.module.state_dict()[k]) for k, v in whole.module.state_dict().items())


# --- The whole -------------------------------------------------------------------------------------------------------


def test_a_stopped_comparison_goes_on_with_the_same_cells(hands: Path, tmp_path: Path, monkeypatch):
    methods = {"methods": "scratch,ti-o2", "labels": "0.5", "label_seeds": "1", "best": 1}
    whole = comparing.compare(config_for(hands, tmp_path / "whole", **methods))
    config, write, written = (
        config_for(hands, tmp_path / "stopped", **methods),
        comparing.checkpoint.write_atomically,
        [],
    )

    def until_the_seventh(path: Path, data):
        if path.parent.name == "cells":
            if len(written) == 7:
                raise KeyboardInterrupt
            written.append(path.name)
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(comparing.checkpoint, "write_atomically", until_the_seventh)
        with pytest.raises(KeyboardInterrupt):
            comparing.compare(config)
    ages = {name: (config.out / "cells" / name).stat().st_mtime_ns for name in written}
    report = comparing.compare(config)
    assert ages == {name: (config.out / "cells" / name).stat().st_mtime_ns for name in written}, "they were made again"
    cells = cells_of(config.out)
    assert cells == cells_of(tmp_path / "whole")
    assert {c["pretraining_seed"] for c in cells.values() if c.get("method") == "ti-o2"} == {0, 1}
    assert [row["name"] for row in report.rows] == ["scratch", *(f"ti-o2{row}" for row in ROWS)]
    tuned = [c for c in cells.values() if c["stage"] == "finetuning"]
    assert len({c["trials"]["validations"] for c in tuned}) == len({c["views"] for c in tuned}) == 1
    assert {c["head"] for c in tuned} == {"articulated", "equivariant"}
    timeless = [[{k: v for k, v in row.items() if k != "hours"} for row in r.rows] for r in (whole, report)]
    assert timeless[0] == timeless[1]
    written_report = json.loads((config.out / "report.json").read_text())
    assert written_report["rows"] == report.rows
    for name in ("table.md", "curves.png", "bars.png"):
        assert (config.out / name).stat().st_size > 500
    assert not list(config.out.rglob("checkpoint.pt"))


def test_processes_share_a_comparison(hands: Path, tmp_path: Path):
    few = ("--recipe.epochs", 1, "--recipe.min-steps", 2, "--recipe.batch", 8, "--recipe.width", 16, "--angles", 2)
    options = ("--data", f"shards:{hands}", "--model", "test_resnet", "--size", 32, "--batch-views", 28, *few)
    options += (
        "--budget-views",
        60,
        "--lrs",
        "1.5e-3",
        "--labels",
        "1",
        "--seeds",
        1,
        "--own-head",
        "",
        "--workers",
        0,
    )
    methods = ["scratch", "autoencoder-pooled", "ti-o2"]
    out = ("--out", tmp_path / "out", "--device", "cpu", "--precision", "fp32")
    started = [Forked(("compare", *out, *options, "--methods", name)) for name in methods]
    for ended in [process.wait() for process in started]:
        assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == methods


@pytest.mark.parametrize(("mode", "augment"), [("frozen", "none"), ("linear", "image")])
def test_heads_on_frozen_encoders_can_be_compared(mode: Any, augment: Any, hands: Path, tmp_path: Path):
    config = config_for(hands, tmp_path, methods="scratch", own_head="", labels="1", label_seeds="1")
    recipe = replace(config.recipe, mode=mode, augment=augment, head="mlp")
    row = comparing.compare(replace(config, recipe=recipe)).rows[0]
    assert row["finetuning"]["100 %"]["curve"]["epoch"][-1] >= 1  # it was trained by steps, and the probe was not
    assert "epoch" not in row["probe"]["curve"]


@pytest.mark.parametrize("method", ["scratch", "ti-o2"])
def test_too_many_broken_samples_end_a_comparison(method: str, tmp_path: Path):
    """Also where images are read as they are needed."""

    def spoil(i: int, label: dict) -> None:
        if i % 3 == 0:
            label["joints_mm"] = label["joints_mm"][:20]

    broken = write_shard(tmp_path / "broken.tar", 60, spoil)
    whole = write_shard(tmp_path / "whole.tar", 60)
    config = config_for(
        broken, tmp_path / "out", methods=method, own_head="", labels="1", label_seeds="1", cache_gb=0.0
    )
    sets = comparing.open_sets(replace(config, data=f"shards:{whole}"))
    spoiled = open_hands(open_data(config.data), 32, 0.0, 0)
    with pytest.raises(InputError, match=r"samples read of .* are broken"):
        comparing._Comparison(config, replace(sets, train=spoiled), CPU).method(method, 0)


def test_a_comparison_goes_on_from_its_cells_alone(hands: Path, tmp_path: Path):
    few = {"methods": "ti-o2", "own_head": "", "labels": "1", "label_seeds": "1"}
    comparing.compare(config_for(hands, tmp_path, **few))
    weights = tmp_path / "pretrained" / "ti-o2-0" / "model.safetensors"
    before, cells = weights.read_bytes(), cells_of(tmp_path)
    shutil.rmtree(tmp_path / "pretrained")
    (tmp_path / "cells" / ".killed.partial.json").write_text("{")
    comparing.compare(config_for(hands, tmp_path, **few | {"labels": "0.5,1", "label_seeds": "1,1"}))
    assert weights.read_bytes() == before
    assert cells.items() <= cells_of(tmp_path).items()


def test_the_best_are_those_that_validate_best_with_their_best_head(hands: Path, sets: Sets, tmp_path: Path):
    config = config_for(hands, tmp_path, methods="autoencoder,simclr,ti-o2", best=2)
    errors = {"autoencoder": {"": [78, 78]}, "simclr": {"": [80, 80], "latent": [10]}}  # one that has not all its cells
    errors["ti-o2"] = {"": [85, 85], "equivariant": [75, 76]}
    (tmp_path / "cells").mkdir()
    for method, variants in errors.items():
        for variant, values in variants.items():
            for i, mm in enumerate(values):
                about = {"stage": "finetuning", "method": method, "variant": variant, "pretraining_seed": 0}
                cell = about | {"validation": {"mpjpe": mm, "pa_mpjpe": 0}, "test": {"mpjpe": -mm}}
                (tmp_path / "cells" / f"{method}{variant}{i}.json").write_text(json.dumps(cell))
    assert comparing._Comparison(config, sets, CPU).best() == ["ti-o2", "autoencoder"]


def test_each_method_takes_the_learning_rate_that_is_best_on_validation(hands: Path, tmp_path: Path, monkeypatch):
    config = config_for(hands, tmp_path, methods="scratch,ti-o2", labels="1", label_seeds="1", own_head="")
    config = replace(config, lrs="1e-4,1e-2,0.5", trial_views=28)
    train_step = Pretraining._train_step

    def never_finite(self, images):
        if self.options.lr == 0.5:
            raise Diverged("the loss is nan")
        return train_step(self, images)

    monkeypatch.setattr(Pretraining, "_train_step", never_finite)
    scratch, ti = comparing.compare(config).rows
    cells = cells_of(tmp_path)
    trials = [cells[f"ti-o2-trial-{lr:g}"] for lr in (1e-4, 1e-2, 0.5)]
    assert [cell.get("views") for cell in trials] == [28, 28, None]
    assert trials[2]["validation"] is None
    assert "nan" in trials[2]["diverged"]
    errors = [score(cell["validation"]) for cell in trials[:2]]
    assert cells["ti-o2-p0-pretraining"]["lr"] == (1e-4, 1e-2)[errors.index(min(errors))] == ti["lr"]
    assert [trial["lr"] for trial in ti["trials"]] == [1e-4, 1e-2, 0.5]
    assert scratch["trials"] == []
    assert not list((tmp_path / "trials").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_every_method_compares_on_a_cnn_and_a_vit(model: str, hands: Path, tmp_path: Path):
    own_head = "ti-paper,ti-o2,scratch:articulated"
    report = comparing.compare(config_for(hands, tmp_path, model=model, methods=ALL, own_head=own_head))
    both = [f"{name}{variant}" for name in ("ti-paper", "ti-o2") for variant in ROWS]
    assert [row["name"] for row in report.rows] == ["scratch", "scratch, articulated", *ALL.split(",")[1:-2], *both]
    for row in report.rows:
        assert set(row["finetuning"]) == {"50 %", "100 %"}
        assert row["finetuning"]["50 %"]["cells"] == 2
        assert row["finetuning"]["50 %"]["pa_mpjpe"]["mean"] > 0
        assert row["views"] == (0 if row["name"].startswith("scratch") else 56)
        assert row["certificate"]["law_error"] < (np.inf if row["name"].startswith("ti-paper") else 1e-3)


@pytest.mark.slow
def test_given_weights_are_a_row_of_their_own_and_every_pretrainings_start(hands: Path, tmp_path: Path):
    first = config_for(hands, tmp_path / "first", methods="simclr", labels="1", label_seeds="1")
    comparing.compare(first)
    weights = tmp_path / "first" / "pretrained" / "simclr-0" / "model.safetensors"
    config = config_for(hands, tmp_path / "next", methods="scratch,ti-o2", labels="1", label_seeds="1")
    config = replace(config, init=str(weights), own_head="")
    report = comparing.compare(config)
    assert [row["name"] for row in report.rows] == ["scratch", "start", "ti-o2"]
    start = report.rows[1]["finetuning"]["100 %"]["curve"]
    before = comparing.compare(first).rows[0]["finetuning"]["100 %"]["curve"]
    assert start == before, "the start is the given weights, fine-tuned directly"
    assert start != report.rows[0]["finetuning"]["100 %"]["curve"]


def test_a_given_model_has_the_cells_that_its_own_pretraining_had(hands: Path, tmp_path: Path):
    few = {"labels": "1", "label_seeds": "1"}
    comparing.compare(config_for(hands, tmp_path / "first", methods="ti-o2", **few))
    folder = tmp_path / "first" / "pretrained" / "ti-o2-0"
    given = config_for(hands, tmp_path / "next", methods="scratch", own_head="", given=f"mine={folder}", **few)
    report = comparing.compare(given)
    assert [row["name"] for row in report.rows] == ["scratch", "mine"]
    assert "56 encoder views" in report.title
    first, second = (cells_of(tmp_path / name) for name in ("first", "next"))
    for cell in ("p0-probe-1-0", "p0-finetuning-1-0"):
        assert second[f"mine-{cell}"] | {"method": ""} == first[f"ti-o2-{cell}"] | {"method": ""}
    certificates = [second["mine-p0-pretraining"]["certificate"], first["ti-o2-p0-pretraining"]["certificate"]]
    assert certificates[0] == pytest.approx(certificates[1], rel=1e-4)
    assert second["mine-p0-pretraining"]["views"] == 56

    probed = comparing.compare(replace(given, out=tmp_path / "probes", labels="", label_seeds=""))
    assert probed.rows[1]["probe"] == report.rows[1]["probe"]
    assert probed.rows[1]["finetuning"] == {}
    assert probed.table()
    other = tmp_path / "next" / "pretrained" / "scratch-0"
    with pytest.raises(InputError, match="holds cells of another --given mine"):
        comparing.compare(replace(given, given=f"mine={other}"))


def test_what_needs_no_image_is_known_beforehand(sets: Sets):
    """Hands of one shape, in any orientation, are all the mean hand; and no constant pose beats the mean and median."""
    found = reference(sets)
    assert found["hand_pa_mpjpe"] <= found["pose_pa_mpjpe"]
    hand, count = torch.randn(21, 3), len(sets.test)
    turns = torch.linalg.qr(torch.randn(count, 3, 3))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None]
    turned = {**sets.test.tensors, "joints": hand * 50 @ turns.mT + 600}
    same = replace(sets, train=InMemory(turned, sets.test.tally), test=InMemory(turned, sets.test.tally))
    assert reference(same)["hand_pa_mpjpe"] < 1e-3
    assert reference(same)["pose_pa_mpjpe"] > 1


# --- The report ------------------------------------------------------------------------------------------------------


def test_the_report_is_arithmetic_on_the_cells():
    def cell(method: str, seed: int, errors: list[float], test: float) -> dict[str, Any]:
        curve = [{"epoch": float(i + 1), "mpjpe": e, "pa_mpjpe": e / 2} for i, e in enumerate(errors)]
        spread = {"mpjpe": 2 * test, "pa_mpjpe": test}
        return {
            "stage": "finetuning",
            "method": method,
            "variant": "",
            "labels": 0.1,
            "seed": seed,
            "hands": 5,
            "curve": curve,
            "validation": curve[-1],
            "trials": {"recipes": 1, "validations": len(curve)},
            "test": {"mpjpe": 3 * test, "pa_mpjpe": test, "spread": spread},
            "seconds": {"training": 1800.0, "testing": 36.0},
        }

    cells = [cell("scratch", 0, [9, 8, 7], 10), cell("scratch", 1, [9, 8, 5], 14), cell("simclr", 0, [8, 6, 5], 9)]
    cells += [cell("peclr", 0, [9, 8, 7], 9)]
    without = {"pose_mpjpe": 90.04, "pose_pa_mpjpe": 30.0, "hand_pa_mpjpe": 15.0}
    cells += [{"stage": "reference", "test": without}]
    scratch, simclr, peclr = summarise(cells).rows
    ten = scratch["finetuning"]["10 %"]
    assert ten["pa_mpjpe"] == {"mean": 12, "sd": pytest.approx(8**0.5)}
    assert ten["target"] == 6
    assert [r["finetuning"]["10 %"]["epochs_to_target"] for r in (scratch, simclr, peclr)] == [3, 2, None]
    assert scratch["hours"] == {"trials": 0, "pretraining": 0, "finetuning": 1.0, "testing": pytest.approx(0.02)}
    assert scratch["validations"] == 6
    assert epochs_to({"epoch": [1.0, 2.0], "mpjpe": [3.0, 2.0]}, 2.0) == 2.0
    table = summarise(cells).table()
    assert "12.0 ± 2.8" in table
    assert "never" in table
    assert "90.0 / 30.0" in table
    again = Report(**json.loads(summarise(cells).to_json()))
    assert again.table(markdown=True) == summarise(cells).table(markdown=True)
