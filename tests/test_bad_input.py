"""Bad input ends in one line that names the thing, the value and the way out, with exit code 2 and nothing written."""

from __future__ import annotations

import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from running import Forked, assert_one_line, command, forked, until
from safetensors.torch import save_file

from ti_backbones import cli
from ti_backbones.data import open_data
from ti_backbones.objective import Objective

SMALL = ("--size", 32, "--batch", 8, "--epochs", 1, "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def pretrain(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a pretraining on bad input in this process; gives its one line. `out` must be as it was."""

    def run(*more, model: str = "test_resnet", data: str = f"folder:{images}", out: Path = tmp_path / "run") -> str:
        before = contents(out)
        options = ["--model", model, "--data", data, "--out", out, *SMALL, *more]
        capsys.readouterr()
        code = cli.main(["pretrain", *map(str, options)])
        said = capsys.readouterr()
        assert code == 2
        assert contents(out) == before, "something was written"
        lines = [line for line in said.err.splitlines() if line.strip()]
        assert len(lines) == 1, said.err
        assert lines[0].startswith("ti-backbones: error: ")
        return lines[0]

    return run


def contents(folder: Path) -> dict[str, bytes] | None:
    """Every file below a folder; None if it does not exist."""
    if not folder.exists():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_words(line: str, *words) -> None:
    for word in words:
        assert str(word) in line, (word, line)


# --- Names, options, values ------------------------------------------------------------------------------------------


def test_unknown_model(pretrain):
    assert_words(pretrain(model="resnet81"), "unknown model 'resnet81'", "resnet18")
    assert_words(pretrain(model="qwertyuiop"), "unknown model 'qwertyuiop'", "timm.list_models()")


def test_a_model_that_does_not_run_at_the_size(pretrain):
    assert_words(pretrain(model="inception_v3"), "model 'inception_v3' does not run at --size 32", "another size")


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--size", 100, "a multiple of 32"),
        ("--size", 0, "a multiple of 32"),
        ("--rank", -1, "0 or more"),
        ("--epochs", 0, "at least 1"),
        ("--batch", 1, "at least 2"),
        ("--accumulate", 0, "a divisor of the batch"),
        ("--accumulate", 3, "a divisor of the batch"),
        ("--lr", 0.0, "between 0 and 1"),
        ("--lr", "nan", "between 0 and 1"),
        ("--warmup", 1.0, "from 0 to below 1"),
        ("--weight-decay", -0.1, "0 or more"),
        ("--weight-decay", "inf", "0 or more"),
        ("--clip", 0.0, "above 0"),
        ("--drop-path", 1.0, "from 0 to below 1"),
        ("--ema", 1.0, "from 0 to below 1"),
        ("--workers", -1, "0 or more"),
        ("--cache-gb", -1.0, "0 or more"),
        ("--seed", -1, "from 0 to below 2^63"),
        ("--log-every", 0, "at least 1"),
        ("--pictures-every", -1, "0 or more"),
        ("--checkpoint-every", 0, "at least 1"),
        ("--objective.ordinary", -0.5, "0 or more"),
        ("--objective.floor", "nan", "0 or more"),
        ("--objective.moving-floor", "inf", "0 or more"),
        ("--objective.colour", 1.5, "from 0 to 1"),
        ("--objective.temperature", 0.0, "above 0"),
        ("--objective.alone", 0.95, "from 0 to 0.9"),
    ],
)
def test_a_value_out_of_range(option, value, wanted, pretrain):
    assert_words(pretrain(option, value), f"{option} is {value}: it must be {wanted}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "both"), ("--preset", "both", "o2", "paper")),
        (("--objective.latent", "o3"), ("--objective.latent", "o3", "affine")),
        (("--precision", "fp8"), ("--precision", "fp8", "bf16")),
        (("--epochs", "many"), ("--epochs", "many")),
        (("--learning-rate", "0.1"), ("--learning-rate", "--help")),
        (("--lr",), ("--lr", "--help")),
        (("stray",), ("stray", "--help")),
        (("--device", "gpu"), ("--device is 'gpu'", "cpu")),
        (("--init", "imagenet"), ("--init is 'imagenet'", "random, timm")),
        (("--grow", "32:0.5,64:0.3"), ("--grow is '32:0.5,64:0.3'", "rising multiples of 32 below 32")),
        (("--grow", "32"), ("--grow is '32'", "shares")),
        (("--rank", 5000), ("--rank is 5000", "from 1 to")),
    ],
)
def test_options_that_do_not_fit(options, words, pretrain):
    assert_words(pretrain(*options), *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_such_device(pretrain):
    assert_words(pretrain("--device", "cuda"), "--device is 'cuda'", "give auto or cpu")


def test_values_given_in_python_are_checked_too(tmp_path: Path):
    from ti_backbones.errors import InputError
    from ti_backbones.pretrain import PretrainConfig, pretrain

    with pytest.raises(InputError, match=r"--preset is 'x': it must be one of o2, autoencoder, paper"):
        pretrain(PretrainConfig(tmp_path / "run", preset="x"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--objective.frame is 'square': it must be one of disc, crop"):
        pretrain(PretrainConfig(tmp_path / "run", objective=Objective(frame="square")))  # type: ignore[arg-type]


def test_unknown_command_and_missing_arguments(capsys):
    for arguments, words in (
        (["pretrian"], ("unknown command 'pretrian'", ", ".join(cli.COMMANDS))),
        (["pretrain"], ("--out", "--help")),
        (["inspect"], ("model", "--help")),
    ):
        assert cli.main(arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert_words(line, *words)


def test_debug_shows_the_stack_trace(tmp_path: Path):
    ended = forked("pretrain", "--out", tmp_path / "run", "--model", "resnet81", "--debug")
    assert ended.code == 1
    assert_words(ended.err, "Traceback", "InputError: unknown model 'resnet81'", "backbone.py")


# --- Data ------------------------------------------------------------------------------------------------------------


def test_missing_and_empty_data(pretrain, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no image")
    nowhere, empty, file = tmp_path / "nowhere", tmp_path / "empty", tmp_path / "file.txt"
    assert_words(pretrain(data=f"folder:{nowhere}"), nowhere, "does not exist", "give a folder")
    assert_words(pretrain(data=f"folder:{file}"), file, "is not a folder")
    assert_words(pretrain(data=f"folder:{empty}"), "no image below", empty, ".jpg")
    assert_words(pretrain(data=f"shards:{nowhere}"), "no tar file", nowhere, "give a tar")
    assert_words(pretrain(data=f"shards:{empty}"), "no tar file", empty)
    assert_words(pretrain(data=f"shards:{file}"), file, "no complete tar file")
    assert_words(pretrain(data="imagenet"), "unknown data 'imagenet'", "embedded, folder:PATH")
    assert_words(pretrain(data="embedded?split=val"), "no split 'val'", "train or test")
    assert_words(pretrain(data="embedded?splitt=test"), "no option 'splitt'", "leave it out")
    assert_words(pretrain("--test-data", f"folder:{nowhere}"), nowhere, "does not exist")


def test_a_batch_larger_than_the_data(pretrain, images: Path):
    line = pretrain("--batch", 74)
    assert_words(line, "--batch is 74", "73 training images", f"folder:{images}", "lower it")


BROKEN = {
    "empty": (lambda data: b"", "cannot be read"),
    "truncated": (lambda data: data[: len(data) // 2], "truncated"),
    "no image": (lambda data: b"words" * 100, "no known image format"),
    "damaged": (lambda data: data[:20] + bytes(len(data) - 20), "cannot be read"),
}


def broken_folder(folder: Path, images: Path, numbers, kind: str) -> list[Path]:
    """A copy of the images with some broken; gives the broken ones."""
    shutil.copytree(images, folder)
    paths = [sorted(folder.iterdir())[number] for number in numbers]
    for path in paths:
        path.write_bytes(BROKEN[kind][0](path.read_bytes()))
    return paths


@pytest.mark.parametrize("kind", BROKEN)
def test_images_that_cannot_be_read(kind, pretrain, images: Path, tmp_path: Path):
    """More than 1 % of them; test_loading.py has what is done with fewer."""
    paths = broken_folder(tmp_path / "images", images, (40, 50, 60), kind)
    assert_words(pretrain(data=f"folder:{tmp_path}/images"), *paths, BROKEN[kind][1], "3 of 73", "repair or remove it")


@pytest.mark.parametrize(("form", "workers"), [("folder", 0), ("shards", 2)])
def test_images_that_cannot_be_read_in_the_middle_of_a_run(form, workers, images: Path, tmp_path: Path):
    """They are met when their turn comes; what was trained so far can be resumed once they are repaired."""
    paths = broken_folder(tmp_path / "images", images, range(40, 52, 3), "truncated")
    data, named = f"folder:{tmp_path}/images", f"{tmp_path}/images/0"
    if form == "shards":
        data, named = f"shards:{tmp_path}/0.tar", f"{tmp_path}/0.tar:0"
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for file in sorted((tmp_path / "images").iterdir()):
                tar.add(file, file.name)
    run = ["--model", "test_resnet", *SMALL, "--test-data", "embedded?split=test", "--out", tmp_path / "run"]
    run += ["--cache-gb", 0, "--workers", workers, "--epochs", 2, "--checkpoint-every", 1, "--log-every", 1]
    ended = forked("pretrain", "--data", data, *run)
    assert_one_line(ended, named, "truncated", "repair or remove it")
    step = torch.load(tmp_path / "run" / "training" / "checkpoint.pt", weights_only=True)["step"]
    assert 1 <= step < 18
    if form == "folder":
        for path in paths:
            shutil.copy(images / path.name, path)
        ended = forked("pretrain", "--data", data, *run, "--resume")
        assert ended.code == 0, ended.err
        assert f"resumed at step {step}" in ended.out


@pytest.mark.parametrize("cut", ["in a member", "in a header", "between members", "in its end"])
def test_a_truncated_shard(cut, pretrain, tmp_path: Path):
    whole = Path(str(open_data("embedded", "test").paths[0]))
    with tarfile.open(whole) as tar:
        member = tar.getmembers()[40]
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    size = {
        "in a member": member.offset_data + 100,
        "in a header": member.offset + 100,
        "between members": member.offset,
        "in its end": end,
    }[cut]
    shard = tmp_path / "0.tar"
    shard.write_bytes(whole.read_bytes()[:size])
    assert_words(pretrain(data=f"shards:{shard}"), shard, "no complete tar file", "cut off", "fetch it again")


# --- Weights ---------------------------------------------------------------------------------------------------------


def test_weights_of_another_architecture(pretrain, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), path)
    assert_words(pretrain("--init", path), path, "another architecture", "is missing", "unexpected")


def test_weights_of_another_width(pretrain, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    assert_words(pretrain("--init", path, model="resnet34"), path, "another architecture than ResNet")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_weights(suffix, damage, pretrain, tmp_path: Path):
    path, state = tmp_path / f"w{suffix}", timm.create_model("test_resnet").state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    data = {"empty": b"", "truncated": path.read_bytes()[:-1000], "text": b"no weights at all"}[damage]
    path.write_bytes(data)
    assert_words(pretrain("--init", path), path, ": ")


class _Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_a_pickle_with_code_is_refused_and_not_run(pretrain, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    torch.save({"state_dict": _Evil()}, tmp_path / "w.pth")
    line = pretrain("--init", tmp_path / "w.pth")
    assert_words(line, tmp_path / "w.pth", "nothing in the file was run", "give a safetensors file")
    assert not (tmp_path / "evil").exists()


def test_a_file_without_a_state_dict(pretrain, tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    assert_words(pretrain("--init", tmp_path / "w.pth"), "hold no state dict", tmp_path / "w.pth")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_timm_weights_without_a_network(environment, tmp_path: Path):
    """An endpoint where nobody listens is a real absence of the Hub; the retries must not be waited for."""
    options = ("--model", "resnet10t", "--out", tmp_path / "run", *SMALL, "--init", "timm", "--data", "embedded")
    prelude = "import atexit, time, ti_backbones.cli\nbegan = time.monotonic()"
    prelude += "\natexit.register(lambda: print(time.monotonic() - began))"
    ended = command("pretrain", *options, prelude=prelude, HF_HOME=str(tmp_path / "hf"), **environment)
    assert_one_line(ended, "weights of 'resnet10t'", "cannot be reached", "file")
    assert float(ended.out.split()[-1]) < 10
    assert not (tmp_path / "run").exists()


# --- The run's folder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("begun") / "run"
    options = ["--model", "test_resnet", "--data", f"folder:{images}", "--out", out, *SMALL]
    ended = forked("pretrain", *options)
    assert ended.code == 0, ended.err
    return out


def test_a_folder_that_holds_a_run(pretrain, begun: Path):
    assert_words(pretrain(out=begun), f"'{begun}' already holds a run", "--resume", "--out")


def test_a_folder_that_holds_a_model_of_no_run(pretrain, begun: Path, tmp_path: Path):
    out = tmp_path / "model"
    shutil.copytree(begun, out, ignore=shutil.ignore_patterns("training"))
    for more in ((), ("--resume",)):
        assert_words(pretrain(*more, out=out), f"'{out}' already holds a model", "--out")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--model", "test_convnext"), ("model 'test_resnet'", "'test_convnext'")),
        (("--preset", "paper"), ("preset 'o2'", "'paper'")),
        (("--objective.ordinary", 0.33), (f"objective.ordinary {Objective().ordinary}", "0.33")),
        (("--objective.latent", "affine"), ("objective.latent 'o2'", "'affine'")),
        (("--batch", 16), ("batch 8", "16")),
        (("--size", 64), ("size 32", "64")),
        (("--epochs", 2), ("epochs 1", "2")),
        (("--seed", 5), ("seed 0", "5")),
        (("--ema", 0.9), ("ema 0.0", "0.9")),
        (("--data", "embedded?split=test"), ("data 'folder:", "'embedded?split=test'")),
    ],
)
def test_another_runs_folder(more, words, pretrain, begun: Path):
    assert_words(pretrain("--resume", *more, out=begun), f"'{begun}' holds a run with", *words, "give another --out")


def test_a_run_whose_images_have_changed(pretrain, begun: Path, images: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    extra = images / "extra.jpg"
    try:
        shutil.copy(images / "000.jpg", extra)
        assert_words(pretrain("--resume", out=out), "on 73 images", "now has 74")
    finally:
        extra.unlink()


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "list"])
def test_a_checkpoint_that_is_none(damage, pretrain, begun: Path, tmp_path: Path):
    out, path = tmp_path / "run", tmp_path / "run" / "training" / "checkpoint.pt"
    shutil.copytree(begun, out)
    if damage in ("foreign", "list"):
        torch.save({"a": torch.zeros(1)} if damage == "foreign" else [1], path)
    else:
        path.write_bytes(path.read_bytes()[:-1000] if damage == "truncated" else b"")
    assert_words(pretrain("--resume", out=out), path, "checkpoint")


def test_a_folder_that_cannot_be_made(pretrain, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert_words(pretrain(out=tmp_path / "file" / "run"), "cannot write", tmp_path / "file", "another folder")


# --- A full disk -----------------------------------------------------------------------------------------------------


def full(images: Path, out: Path, limit: int, *more, before=None):
    """A run that may write no file larger than `limit` bytes."""
    options = ["--model", "test_resnet", "--data", f"folder:{images}", "--out", out, *SMALL, *more]
    return forked("pretrain", *options, file_limit=limit, before=before)


def test_no_room_for_the_checkpoint(images: Path, tmp_path: Path):
    out = tmp_path / "run"
    ended = full(images, out, 200_000, "--checkpoint-every", 1)
    assert_one_line(ended, "cannot write", out / "training" / "checkpoint.pt", "File too large", "free space")
    assert not (out / "training" / "checkpoint.pt").exists()
    assert not list(out.rglob("*partial*"))


def test_the_previous_checkpoint_survives_a_full_disk(images: Path, tmp_path: Path):
    """Stopped half-way, it cannot write the next checkpoint, and ends as usual when there is room again."""
    out, path = tmp_path / "run", tmp_path / "run" / "training" / "checkpoint.pt"
    options = ["--model", "test_resnet", "--data", f"folder:{images}", "--out", out, *SMALL, "--checkpoint-every", 1]
    run = Forked(["pretrain", *options])
    until(path.exists)
    run.send(signal.SIGKILL)
    run.wait()
    before = path.read_bytes()
    ended = full(images, out, len(before) // 2, "--checkpoint-every", 1, "--resume")
    assert_one_line(ended, "cannot write", path, "is as it was")
    assert path.read_bytes() == before
    ended = forked("pretrain", *options, "--resume")
    assert ended.code == 0, ended.err


def no_tensorboard() -> None:
    """Where TensorBoard is not installed, its files cannot be the first that grow too large."""
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard"]:
        del sys.modules[name]
    sys.modules["tensorboard"] = None  # type: ignore[assignment]


def test_no_room_for_the_log(images: Path, tmp_path: Path):
    out = tmp_path / "run"
    ended = full(images, out, 600, "--log-every", 1, before=no_tensorboard)
    assert_one_line(ended, "cannot write", out / "training" / "log.jsonl", "File too large")
    options = ["--model", "test_resnet", "--data", f"folder:{images}", "--out", out, *SMALL, "--log-every", 1]
    ended = forked("pretrain", *options, "--resume")
    assert ended.code == 0, ended.err
    assert len((out / "training" / "log.jsonl").read_text().splitlines()) == 9


def test_no_room_for_tensorboard(images: Path, tmp_path: Path):
    ended = full(images, tmp_path / "run", 20)
    assert_one_line(ended, "cannot write", "tfevents", "File too large")


def test_no_room_for_a_picture(images: Path, tmp_path: Path):
    out = tmp_path / "run"
    ended = full(images, out, 8000, "--pictures-every", 1)
    assert_one_line(ended, "cannot write", out / "training" / "views-000001.png", "File too large")
    assert not list(out.rglob("*.png"))


def test_no_room_for_the_final_model(begun: Path, images: Path, tmp_path: Path):
    """None of its files appears, and it can be had from the checkpoint when there is room."""
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    names = ("model.safetensors", "latent_transformer.safetensors", "config.json")
    model = {name: (out / name).read_bytes() for name in names}
    for name in names:
        (out / name).unlink()
    limit = len(model["model.safetensors"]) - 1000
    ended = full(images, out, limit, "--resume")
    assert_one_line(ended, "cannot write", out / "model.safetensors", "File too large")
    assert not any((out / name).exists() for name in names)
    assert full(images, out, 10**9, "--resume").code == 0
    assert {name: (out / name).read_bytes() for name in names} == model


# --- Missing extras, interruption ------------------------------------------------------------------------------------

MISSING = "import sys; sys.modules['{}'] = None"


@pytest.mark.slow
def test_a_missing_extra_is_named(begun: Path, tmp_path: Path):
    ended = command("pretrain", "--out", tmp_path / "run", prelude=MISSING.format("tyro"))
    assert_one_line(ended, "'tyro' is not installed", "pip install 'ti-backbones[train]'")
    figure = tmp_path / "figure.png"
    ended = command("inspect", "--figure", figure, begun, prelude=MISSING.format("matplotlib"))
    assert_one_line(ended, "'matplotlib' is not installed", "pip install 'ti-backbones[train]'")
    assert not figure.exists()


def test_without_tensorboard_and_matplotlib_a_run_leaves_them_out(images: Path, tmp_path: Path):
    def without() -> None:
        import sys

        no_tensorboard()
        for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
            del sys.modules[name]
        sys.modules["matplotlib"] = None  # type: ignore[assignment]

    out = tmp_path / "run"
    ended = full(images, out, 10**9, before=without)
    assert ended.code == 0, ended.err
    assert (out / "certificate.json").exists()
    assert not (out / "certificate.png").exists()
    assert not (out / "training" / "tensorboard").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_ends_at_once_and_resumes(workers, images: Path, tmp_path: Path):
    out = tmp_path / "run"
    options = ["--model", "test_resnet", "--data", f"folder:{images}", "--out", out, *SMALL, "--checkpoint-every", 1]
    options += ["--cache-gb", 0, "--workers", workers]
    run = Forked(["pretrain", *options, "--epochs", 1000])
    until((out / "training" / "checkpoint.pt").exists)
    run.send(signal.SIGINT)
    ended = run.wait()
    assert ended.code == 130
    assert ended.lines == ["ti-backbones: interrupted; add --resume to continue a pretraining"]
    assert torch.load(out / "training" / "checkpoint.pt", weights_only=True)["step"] >= 1
    assert not list(out.rglob("*partial*"))


# --- inspect ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--angles", 1), ("--angles is 1", "at least 2")),
        (("--limit", 0), ("--limit is 0", "at least 2")),
        (("--size", -1), ("--size is -1", "0 or more")),
        (("--figure", "a.docx"), ("--figure is 'a.docx'", ".png")),
        (("--frame", "hexagon"), ("--frame", "hexagon", "disc")),
        (("--data", "folder:/nowhere"), ("/nowhere", "does not exist")),
        (("--device", "gpu"), ("--device is 'gpu'",)),
    ],
)
def test_inspect_refuses(options, words, begun: Path, capsys):
    assert cli.main(["inspect", str(begun), *map(str, options)]) == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert_words(said.err, *words)


def test_inspect_refuses_models(begun: Path, tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    for model, words in (
        (tmp_path / "empty", ("no config.json", "empty", "save_pretrained")),
        (begun / "model.safetensors", ("is a file", "give the folder")),
        ("resnet81", ("unknown model 'resnet81'", "resnet18")),
        ("ti_resnet26", ("ti_resnet26", "TI_BACKBONES_HUB")),
    ):
        assert cli.main(["inspect", str(model), "--no-pretrained"]) == 2
        said = capsys.readouterr()
        assert len(said.err.strip().splitlines()) == 1, said.err
        assert_words(said.err, *words)
