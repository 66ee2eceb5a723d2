"""Loading at scale: shards under many processes, resumed anywhere; what is broken is skipped, counted and named."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import assert_one_line, command, forked
from test_data import numbered, png, write_tar
from torch.utils.data import Dataset

from ti_backbones import data
from ti_backbones.data import broken, load_all, open_data, read, shards
from ti_backbones.data.broken import FIRST, TRIES, Item, Skipping, Tally
from ti_backbones.data.images import Selection, each
from ti_backbones.data.names import Names
from ti_backbones.data.order import StepSampler, permutation
from ti_backbones.errors import BrokenSample, InputError, NoHand

# --- Order -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 200), st.integers(0, 3))
@settings(deadline=None)
def test_an_order_by_files_is_a_permutation_that_reads_each_file_in_one_stretch(sizes, window, epoch):
    length, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    order = permutation(length, 7, epoch, starts, window).numpy()
    assert np.array_equal(np.sort(order), np.arange(length))
    stretch = length / max(length // window, 1) + max(sizes)
    for start, size in zip(starts, sizes, strict=True):
        places = np.flatnonzero((order >= start) & (order < start + size))
        assert not size or places[-1] - places[0] <= stretch


def test_orders_by_files_mix_files_and_samples_anew_in_each_epoch():
    starts = np.arange(0, 1000, 10)
    orders = [permutation(1000, 0, epoch, starts, 100).numpy() for epoch in range(8)]
    for order in orders:
        files_at_once = [len(set(order[i : i + 100] // 10)) for i in range(0, 1000, 100)]
        assert max(files_at_once) <= 20  # ten files to a window, and its neighbour's
        assert np.abs(np.diff(order)).mean() > 50  # neighbours come from anywhere
    together = [{*order[:100] // 10} for order in orders]
    assert len({frozenset(t) for t in together}) == 8
    first = np.stack(orders).argsort(1)  # when each sample's turn comes
    assert abs(np.corrcoef(first[0], first[1])[0, 1]) < 0.2


def test_few_samples_are_mixed_wholly():
    whole = permutation(1000, 3, 5)
    assert torch.equal(permutation(1000, 3, 5, np.arange(0, 1000, 10), 600), whole)
    assert torch.equal(permutation(1000, 3, 5, None, 10), whole)


@given(st.integers(0, 12))
@settings(deadline=None, max_examples=10)
def test_a_resumed_order_by_files_is_the_rest_of_the_whole(start):
    more = {"starts": np.array([0, 5, 30, 31, 70]), "window": 20}
    rest = StepSampler(97, 16, 12, start, 4, **more)
    assert list(rest) == list(StepSampler(97, 16, 12, 0, 4, **more))[start:]


def test_a_selection_knows_where_its_files_begin(tmp_path: Path):
    for name, keys in (("a", range(4)), ("b", range(4, 6)), ("c", range(6, 12))):
        write_tar(tmp_path / f"{name}.tar", {f"{k}.png": png(numbered(k)) for k in keys})
    samples = open_data(f"shards:{tmp_path}")
    assert samples.starts.tolist() == [0, 4, 6]
    some = Selection(samples, np.array([1, 2, 6, 7, 11]))
    assert [some[i].key for i in range(len(some))] == ["1", "2", "6", "7", "11"]
    assert some.starts.tolist() == [0, 2, 2]


# --- Ranks and workers -----------------------------------------------------------------------------------------------


class Keys(Dataset):
    """The number that is a sample's key, and the worker that read it."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        sample = self.samples[index]
        assert int(sample.image[0, 0, 0]) == int(sample.key)
        return torch.tensor([int(sample.key), torch.utils.data.get_worker_info().id])


def read_share(rank: int, folder: Path, steps: int, start: int) -> None:
    """Read the batches of one of two processes, with three workers, and write which samples came from whom."""
    data.images.cores = lambda: 3  # whatever this machine has
    samples = open_data(f"shards:{folder}/shards")
    sampler = StepSampler(len(samples), 24, steps, start, 5, rank, 2, samples.starts, 60)
    batches = [batch.tolist() for batch in read(Keys(samples), sampler, 3)]
    (folder / f"{start}-{rank}.json").write_text(json.dumps(batches))


def in_two_processes(*arguments) -> None:
    """`read_share` in two forks."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=read_share, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def under_torchrun(folder: Path, steps: int, start: int) -> None:
    """The same in fresh interpreters that form a process group."""
    script = folder / "read.py"
    script.write_text(
        "import sys, pathlib, test_loading\nfrom ti_backbones.distributed import join, leave\nworld = join('cpu')\n"
        "assert world.size == 2\n"
        f"test_loading.read_share(world.rank, pathlib.Path({str(folder)!r}), {steps}, {start})\nleave()\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(run, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("run", [in_two_processes, pytest.param(under_torchrun, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_two_processes_with_three_workers_read_each_sample_once_an_epoch(run, tmp_path: Path):
    """And from the middle of an epoch on they read the rest of it."""
    length, number = 203, 0
    (tmp_path / "shards").mkdir()
    for shard, size in enumerate([40, 1, 70, 25, 67]):
        keys = range(number, number := number + size)
        write_tar(tmp_path / "shards" / f"{shard}.tar", {f"{k:03d}.png": png(numbered(k)) for k in keys})
    per_epoch = length // 24
    for start in (0, 5):
        run(tmp_path, 2 * per_epoch, start)
    whole, rest = ([json.loads((tmp_path / f"{s}-{r}.json").read_text()) for r in (0, 1)] for s in (0, 5))
    for rank in (0, 1):
        assert len(whole[rank]) == 2 * per_epoch
        assert {worker for batch in whole[rank] for _, worker in batch} == {0, 1, 2}
        keys = [[[key for key, _ in batch] for batch in ranks[rank]] for ranks in (whole, rest)]
        assert keys[1] == keys[0][5:]
    epochs = []
    for epoch in (0, 1):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        keys = [key for step in steps for rank in (0, 1) for key, _ in whole[rank][step]]
        assert len(set(keys)) == len(keys) == per_epoch * 24
        assert length - len(keys) < 24
        epochs.append(keys)
    assert epochs[0] != epochs[1] != sorted(epochs[1])


# --- Many shards -----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=8), st.lists(st.text(), max_size=4))
@settings(deadline=None, max_examples=30)
def test_names_are_a_list_of_strings(a, b):
    names = Names.joined([Names(a), Names(), Names(b)])
    assert list(names) == a + b
    assert len(names) == len(a + b)
    assert list(names.part(len(a), len(a + b))) == b
    assert [names[-i - 1] for i in range(len(names))] == (a + b)[::-1]
    with pytest.raises(IndexError):
        names[len(names)]


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Three indexed shards of four images each, the first with labels."""
    folder = tmp_path / "indexed"
    folder.mkdir()
    for shard in range(3):
        members = {f"s{shard}/{k}.png": png(numbered(4 * shard + k)) for k in range(4)}
        members |= {f"s{shard}/{k}.json": b'{"side": "right"}' for k in range(4) if not shard}
        write_tar(folder / f"{shard}.tar", members)
    shards.write_index(sorted(folder.glob("*.tar")))
    return folder


def content(spec: str) -> list[tuple]:
    samples = open_data(spec)
    return [(s.key, int(s.image[0, 0, 0]), s.right) for s in (samples[i] for i in range(len(samples)))]


def test_an_index_says_what_the_tars_say(indexed: Path, tmp_path: Path):
    expected = [(f"s{i // 4}/{i % 4}", i, True if i < 4 else None) for i in range(12)]
    assert content(f"shards:{indexed}") == expected
    assert content(f"shards:{indexed}/[02].tar") == expected[:4] + expected[8:]
    (indexed / shards.INDEX).unlink()
    assert content(f"shards:{indexed}") == expected


def test_an_index_spares_reading_the_tars(indexed: Path):
    tar = indexed / "1.tar"
    tar.write_bytes(bytes(tar.stat().st_size))  # nothing is left in it
    samples = open_data(f"shards:{indexed}")
    assert len(samples) == 12
    with pytest.raises(BrokenSample, match=r"1.tar:s1/0.png"):
        samples[4]


@pytest.mark.parametrize("damage", [b"", b"words", None])
def test_an_index_that_does_not_hold_is_not_used(damage, indexed: Path):
    """Neither one that cannot be read, nor one of a tar that has another size since."""
    index = indexed / shards.INDEX
    index.write_bytes(index.read_bytes()[:-200] if damage is None else damage)
    write_tar(indexed / "2.tar", {f"{k}.png": png(numbered(k)) for k in range(100, 150)})
    assert [key for key, _, _ in content(f"shards:{indexed}")[8:]] == [str(k) for k in range(100, 150)]
    (indexed / "2.tar").write_bytes((indexed / "2.tar").read_bytes()[:-15000])
    with pytest.raises(InputError, match=r"2.tar' is no complete tar file"):
        open_data(f"shards:{indexed}")


def test_a_rewritten_shard_is_read_anew_though_the_index_knows_it(indexed: Path):
    write_tar(indexed / "2.tar", {f"{k}.png": png(numbered(k)) for k in range(100, 150)})
    assert len(open_data(f"shards:{indexed}")) == 8 + 50


def test_few_shards_are_open_at_a_time(indexed: Path, monkeypatch):
    monkeypatch.setattr(shards, "OPEN_FILES", 2)
    samples, before = open_data(f"shards:{indexed}"), len(os.listdir("/proc/self/fd"))
    for i in (0, 4, 8, 1, 5, 9, 0):
        assert int(samples[i].image[0, 0, 0]) == i
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_shards_take_little_memory(tmp_path: Path):
    """What a worker is given: arrays, some 60 bytes a sample beside its name."""
    image = png(numbered(0))
    for shard in range(4):
        write_tar(tmp_path / f"{shard}.tar", {f"{shard}{k:05d}.png": image for k in range(1000)})
    assert len(pickle.dumps(open_data(f"shards:{tmp_path}"))) < 4000 * (60 + 6) + 5000


# --- What is broken --------------------------------------------------------------------------------------------------


class Some(Dataset):
    """The numbers to n; some are broken, some show no hand."""

    def __init__(self, n: int, broken=(), absent=()):
        self.n, self.broken, self.absent = n, set(broken), set(absent)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.broken:
            raise BrokenSample(f"sample {index} is broken: repair it")
        if index in self.absent:
            raise NoHand(f"sample {index} shows no hand")
        return torch.tensor(index)


@given(st.integers(1, 60), st.data())
def test_a_sample_that_cannot_be_used_is_replaced_by_a_function_of_its_index(n, draw):
    bad = draw.draw(st.sets(st.integers(0, n - 1), max_size=min(n, TRIES) - 1))
    absent = draw.draw(st.sets(st.sampled_from(sorted(bad)))) if bad else set()
    items = Skipping(Some(n, bad - absent, absent))
    for i in range(n):
        item = items[i]
        assert int(item.value) not in bad
        assert item.replaced == (i in bad)
        assert item == items[i]
        if i not in bad:
            assert int(item.value) == i
        named = [int(line.split()[1]) for line in item.broken]
        assert set(named) <= bad - absent
        assert (i in bad - absent) == (i in named)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_their_shape_and_what_is_broken_is_counted(workers):
    tally = Tally(100, "some")
    batches = list(read(Some(100, {3, 50}, {7}), [[1, 2, 3], [4, 5, 6], [7, 50, 3]], workers, tally))
    assert [len(b) for b in batches] == [3, 3, 3]
    assert batches[0][:2].tolist() == [1, 2]
    assert batches[1].tolist() == [4, 5, 6]
    assert batches[2][2] == batches[0][2]
    assert (tally.read, tally.names) == (0, {})
    tally.share()
    assert tally.read == 12  # the broken ones were read too
    assert len(tally.broken) == 2
    assert sorted(tally.news()) == ["sample 3 is broken: repair it", "sample 50 is broken: repair it"]
    assert tally.news() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_of_which_nothing_can_be_used_is_an_error(workers):
    with pytest.raises(InputError, match=rf"^none of {TRIES} samples can be used; the first: sample 5 is broken"):
        list(read(Some(1000, range(1000)), [[5]], workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_gives_values_in_order(workers):
    assert [int(v) for v in each(Some(50), range(0, 50, 3), workers)] == list(range(0, 50, 3))
    with pytest.raises(InputError, match=r"^sample 33 is broken: repair it$"):
        list(each(Some(50, {33}), range(50), workers))


def counted(length: int, read: int, bad: int) -> Tally:
    tally = Tally(length, "some")
    tally.count(Item(None, False, [f"b{i}"] if i < bad else []) for i in range(read - bad))
    tally.share()
    assert (tally.read, len(tally.broken)) == (read, bad)
    return tally


@pytest.mark.parametrize(
    ("length", "read", "most"),
    [
        (20, 20, 2),
        (76, 76, 2),
        (500, 500, 5),
        (1000, 1000, 10),
        (10**5, 50, 10),
        (10**5, 1000, 10),
        (10**5, 50000, 500),
    ],
)
def test_more_than_one_in_a_hundred_is_too_many(length, read, most):
    """Of what was read, but never for two, and not before it could be one in a hundred of a thousand."""
    assert FIRST == 1000
    counted(length, read, most).check()
    with pytest.raises(
        InputError, match=rf"^{most + 1} of {read} samples read of 'some' are broken, more than 1%: b0; b"
    ):
        counted(length, read, most + 1).check()


def test_a_tally_goes_on_from_a_checkpoint():
    tally = Tally(100, "some")
    tally.count([Item(None, True, ["a", "b"])])
    tally.share()
    assert tally.news() == ["a", "b"]
    tally.count([Item(None, True, ["b", "c"])])
    tally.share()
    resumed = Tally(100, "some")
    resumed.restore(json.loads(json.dumps(tally.state())))
    assert resumed.names == tally.names
    assert resumed.news() == tally.news() == ["c"]
    assert resumed.read == 0  # what was repaired since does not count


def test_what_is_loaded_without_a_tally_leaves_broken_images_out(tmp_path: Path, capsys):
    for i in range(300):
        (tmp_path / f"{i:03d}.png").write_bytes(b"" if i in (7, 250) else png(numbered(i % 256)))
    loaded = load_all(open_data(f"folder:{tmp_path}"), 16)
    assert loaded.images[:, 0, 0, 0].tolist() == [i % 256 for i in range(300) if i not in (7, 250)]
    said = re.findall(r"left out: (image '.*?') cannot be read", capsys.readouterr().err)
    assert said == [f"image '{tmp_path}/{name}.png'" for name in ("007", "250")]
    for i in (8, 9):
        (tmp_path / f"{i:03d}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"^4 of 300 samples read of 'folder:.*and 1 more: ti-backbones data check"):
        load_all(open_data(f"folder:{tmp_path}"), 16)


# --- In training -----------------------------------------------------------------------------------------------------

SMALL = ("--model", "test_resnet", "--size", 32, "--batch", 8, "--precision", "fp32", "--device", "cpu")
SMALL += ("--log-every", 1, "--checkpoint-every", 1)


def damaged(folder: Path, images: Path, numbers) -> Path:
    """A copy of the images, some of them cut off."""
    shutil.copytree(images, folder)
    paths = sorted(folder.iterdir())
    for number in numbers:
        paths[number].write_bytes(paths[number].read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def test_data(images: Path, tmp_path_factory) -> tuple:
    """The option that names eight sound images to certify on."""
    folder = tmp_path_factory.mktemp("test")
    for i in range(8):
        shutil.copy(images / f"{i:03d}.jpg", folder)
    return "--test-data", f"folder:{folder}"


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]


def test_training_skips_broken_images_and_names_them(images: Path, test_data, tmp_path: Path):
    """The same from memory, from disk and resumed; each is named once, when it is first met."""
    folder = damaged(tmp_path / "images", images, [5, 50])
    runs = {"memory": (), "disk": ("--cache-gb", 0, "--workers", 1), "resumed": ("--cache-gb", 0, "--workers", 0)}
    for name, options in runs.items():
        arguments = [
            "pretrain",
            "--data",
            f"folder:{folder}",
            "--out",
            tmp_path / name,
            *SMALL,
            *test_data,
            "--epochs",
            2,
            *options,
        ]
        if name == "resumed":  # it is stopped by a full disk
            ended = forked(*arguments, before=lambda: stop_after(12))
            assert ended.code == 2, ended.err
            arguments.append("--resume")
        ended = forked(*arguments)
        assert ended.code == 0, ended.err
        assert name != "resumed" or "resumed at step 12" in ended.out
    for name in runs:
        log = log_of(tmp_path / name)
        assert [line["step"] for line in log] == list(range(1, 19))
        named = [line for record in log for line in record.get("broken_names", [])]
        assert len(named) == 2
        assert {path.name for path in (folder / "005.jpg", folder / "050.jpg") if any(str(path) in n for n in named)}
        assert log[-1]["broken"] == 2
        model = (tmp_path / name / "model.safetensors").read_bytes()
        assert model == (tmp_path / "memory" / "model.safetensors").read_bytes()
    assert log_of(tmp_path / "memory")[0]["broken"] == 2


def stop_after(steps: int) -> None:
    """Let a run fail once it has written so many checkpoints."""
    from ti_backbones import checkpoint

    save, left = checkpoint.save, [steps]

    def failing(path, state):
        if not left[0]:
            raise InputError("no space is left: free some")
        left[0] -= 1
        save(path, state)

    checkpoint.save = failing


def test_training_stops_for_too_many_broken_images_and_goes_on_once_they_are_repaired(
    images: Path, test_data, tmp_path: Path
):
    numbers = [5, 20, 41, 50, 66]
    folder, out = damaged(tmp_path / "images", images, numbers), tmp_path / "run"
    run = ["pretrain", "--data", f"folder:{folder}", "--out", out, *SMALL, *test_data, "--epochs", 1]
    ended = forked(*run)  # all are found before anything is written
    assert_one_line(ended, "5 of 76 samples read of", "005.jpg", "and 2 more", "ti-backbones data check 'folder:")
    assert not out.exists()
    run += ["--cache-gb", 0, "--workers", 0, "--checkpoint-every", 100]
    ended = forked(*run)
    assert_one_line(ended, "samples read of", "more than 1%", folder, str(out / "training" / "log.jsonl"), "--resume")
    log = log_of(out)
    named = [line for record in log for line in record.get("broken_names", [])]
    assert len(named) == log[-1]["broken"] >= 3
    assert ended.out.count("skipped: image") == len(named)
    step = torch.load(out / "training" / "checkpoint.pt", weights_only=True)["step"]
    assert step == log[-1]["step"] < 9
    for number in numbers:
        shutil.copy(images / f"{number:03d}.jpg", folder)
    ended = forked(*run, "--resume")
    assert ended.code == 0, ended.err
    assert f"resumed at step {step}" in ended.out


@pytest.mark.slow
def test_all_processes_stop_together(images: Path, test_data, tmp_path: Path):
    """Each meets too few to stop alone; together they are too many, and rank 0's log names all."""
    folder = damaged(tmp_path / "images", images, [5, 20, 41, 50])
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    options = ["--cache-gb", 0, "--workers", 1, "--epochs", 1, "--checkpoint-every", 100, "--log-every", 100]
    out = tmp_path / "run"
    spec = f"shards:{tmp_path}/0.tar"
    ended = command("pretrain", "--data", spec, "--out", out, *SMALL, *test_data, *options, processes=2)
    assert ended.code != 0
    said = [line for line in ended.lines if "ti-backbones: error:" in line]
    assert len(said) == 1
    assert "are broken, more than 1%" in said[0]
    [record] = log_of(out)
    assert len(record["broken_names"]) == record["broken"] >= 3
    assert (out / "training" / "checkpoint.pt").exists()
    assert not (out / "model.safetensors").exists()


def test_the_number_of_tries_is_no_multiple_of_a_set():
    """Else the replacements of a sample would go round among few."""
    assert all(np.gcd(broken.STRIDE, n) == 1 for n in range(1, 10_000))
