"""What is written about samples is read back: labels, masks, shards; and `data check`, `data pack`, `data show`."""

from __future__ import annotations

import json
import os
import signal
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from running import Forked, assert_one_line, forked, until
from test_data import numbered, png, write_tar

from ti_backbones import cli
from ti_backbones.data import open_data
from ti_backbones.data.check import problem
from ti_backbones.data.draw import BONES, COLOURS, sheet, tile
from ti_backbones.data.labels import from_json, to_json
from ti_backbones.data.masks import decode, encode
from ti_backbones.data.pack import fit
from ti_backbones.data.sample import Sample, project
from ti_backbones.data.writer import MANIFEST, LeftOut, Member, ShardWriter, member
from ti_backbones.errors import BrokenSample, InputError

# --- Masks -----------------------------------------------------------------------------------------------------------

some_masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def test_a_mask_coded_by_hand():
    """Runs 2, 1, 3 of the columns; 48 + n for a number under 16."""
    mask = np.array([[0, 1, 0], [0, 0, 0]], bool)
    assert encode(mask) == {"size": [2, 3], "counts": "213"}
    assert encode(~mask) == {"size": [2, 3], "counts": "0211"}  # 0, 2, 1, and the fourth less the second, 3 - 2
    assert np.array_equal(decode(encode(mask)), mask)


@given(some_masks)
@settings(deadline=None)
def test_masks_are_coded_as_pycocotools_codes_them(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode(mask)
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert np.array_equal(decode(ours), mask)


def test_large_masks_are_coded_as_pycocotools_codes_them():
    coco = pytest.importorskip("pycocotools.mask")
    y, x = np.mgrid[:480, :640]
    for mask in (np.zeros((480, 640), bool), np.ones((480, 640), bool), (x - 300) ** 2 + (y - 90) ** 2 < 150**2):
        assert encode(mask)["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(decode(encode(mask)), mask)


@pytest.mark.parametrize(
    "coded", [{"size": [4, 4], "counts": "2"}, {"size": [2, 2], "counts": "9"}, {"size": [-1, -4], "counts": "4"}]
)
def test_runs_that_do_not_fill_a_mask_are_refused(coded):
    with pytest.raises(ValueError, match="do not fill"):
        decode(coded)


# --- Labels ----------------------------------------------------------------------------------------------------------


def hand(seed: int = 0, side: int = 96) -> Sample:
    """A sample with everything that a sample may have; its joints lie in its image."""
    rng = np.random.default_rng(seed)
    k = np.array([[310.7, 0, 41.3], [0, 311.9, 52.1], [0, 0, 1]], np.float32)
    px, z = rng.uniform(5, side - 5, (21, 2)), rng.uniform(400, 900, (21, 1))
    joints = np.concatenate([(px - k[:2, 2]) / k[[0, 1], [0, 1]] * z, z], 1).astype(np.float32)
    return Sample(
        key=f"a/b.c/{seed}.x",
        image=rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        joints_mm=joints,
        joints_px=(project(joints, k) + rng.normal(0, 0.3, (21, 2))).astype(np.float32),
        intrinsics=k,
        valid=rng.random(21) < 0.8,
        right=bool(seed % 2),
        mirrored=bool(seed % 3),
        crop=rng.normal(size=(3, 3)),
        mask=rng.random((side, side)) < 0.5,
        extra={"subject": "s1", "camera": 7, "pose": [0.1, 2e-9], "seed": 2**40, "none": None, "on": True},
    )


def same(a: Sample, b: Sample, *but: str) -> None:
    """Every field is the same, bits and types."""
    for f in fields(Sample):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.name in but:
            continue
        if isinstance(x, np.ndarray):
            assert isinstance(y, np.ndarray), f.name
            assert x.dtype == y.dtype, f.name
            np.testing.assert_array_equal(x, y, f.name)
        else:
            assert x == y, f.name
            assert type(x) is type(y), f.name


def again(sample: Sample) -> Sample:
    """The sample from its labels' JSON text."""
    label = json.loads(json.dumps(to_json(sample), allow_nan=False))
    return Sample(**{"key": sample.key, "image": sample.image} | from_json(label))


@pytest.mark.parametrize("seed", range(6))
def test_labels_survive_json_to_the_bit(seed):
    same(hand(seed), again(hand(seed)))
    same(hand(seed).mirror(), again(hand(seed).mirror()))


@pytest.mark.parametrize(
    "name", [f.name for f in fields(Sample) if f.name not in ("key", "image", "mirrored", "extra")]
)
def test_labels_that_are_unknown_stay_unknown(name):
    sample = replace(hand(), **{name: None})
    if name == "joints_px":  # where the 3D joints are, is known
        sample.joints_px = project(sample.joints_mm, sample.intrinsics)
        assert "joints_px" not in to_json(sample)
        np.testing.assert_allclose(again(sample).joints_px, sample.joints_px, atol=1e-4)
    else:
        same(sample, again(sample))
    assert to_json(Sample("x", sample.image)) == {}
    same(Sample("x", sample.image), again(Sample("x", sample.image)))


def test_joints_that_do_not_count_may_be_anything():
    sample = hand()
    sample.valid[:] = True
    sample.valid[[3, 4]] = False
    sample.joints_mm[3], sample.joints_px[4] = np.nan, np.nan
    same(sample, again(sample))


def test_what_numpy_and_others_put_into_extra_becomes_plain():
    sample = Sample("x", numbered(0), extra={"a": np.float32(0.5), "b": np.arange(3), "c": float("nan")})
    assert again(sample).extra == {"a": 0.5, "b": [0, 1, 2], "c": None}
    assert from_json({"K": None, "subject": 3, "extra": {"camera": 4}})["extra"] == {"subject": 3, "camera": 4}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ([], "list"),
        ({"joints_mm": [[1, 2, 3]] * 20}, r"joints_mm is of shape \(20, 3\)"),
        ({"joints_mm": [[1, 2, 3]] * 20 + [[1]]}, "joints_mm is no array"),
        ({"joints_mm": "x"}, "joints_mm is no array"),
        ({"K": [[1, 2], [3, 4]]}, "K is of shape"),
        ({"valid": [1] * 20}, "valid is of shape"),
        ({"side": "up"}, "side is 'up'"),
        ({"mask": "x"}, "mask is no"),
        ({"mask": {"size": [2, 2]}}, "mask is no"),
        ({"mask": {"size": [2, 2], "counts": "1"}}, "do not fill"),
        ({"extra": 3}, "extra is a int"),
    ],
)
def test_labels_that_are_none(label, words):
    with pytest.raises(ValueError, match=words):
        from_json(label)


# --- Writing shards --------------------------------------------------------------------------------------------------


def samples_of(folder: Path, more: str = "") -> dict[str, Sample]:
    samples = open_data(f"shards:{folder}?mirror=no{more}")
    return {s.key: s for s in (samples[i] for i in range(len(samples)))}


def write(out: Path, n: int = 5, per_shard: int = 2, **source) -> ShardWriter:
    writer = ShardWriter(out, n, source, per_shard)
    for number in writer.missing():
        writer.write(number, (member(hand(i)) for i in writer.indices(number)))
    writer.finish()
    return writer


def test_shards_hold_the_samples_in_webdatasets_layout(tmp_path: Path):
    write(tmp_path / "out")
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [t.name for t in tars] == ["000000.tar", "000001.tar", "000002.tar"]
    with tarfile.open(tars[1]) as tar:
        assert tar.getnames() == [f"a/b.c/{i}_x.{s}" for i in (2, 3) for s in ("jpg", "json")]
    found = samples_of(tmp_path / "out")
    assert list(found) == [hand(i).key for i in range(5)]
    for i in range(5):
        same(hand(i), found[hand(i).key], "image")


def test_webdataset_reads_the_shards(tmp_path: Path):
    webdataset = pytest.importorskip("webdataset")
    write(tmp_path / "out")
    tars = [str(t) for t in sorted((tmp_path / "out").glob("*.tar"))]
    found = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [s["__key__"] for s in found] == [f"a/b.c/{i}_x" for i in range(5)]
    for i, s in enumerate(found):
        np.testing.assert_array_equal(s["json"]["joints_mm"], to_json(hand(i))["joints_mm"])
        assert s["jpg"].shape == (96, 96, 3)


def test_the_same_samples_give_the_same_files(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in files:
        if name != "index.npz":  # a zip tells the time
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_only_what_is_missing_is_written(tmp_path: Path):
    out = tmp_path / "out"
    write(out)
    whole = {p.name: p.read_bytes() for p in out.glob("*.tar")}
    (out / "000001.tar").write_bytes(whole["000001.tar"][:-600])
    (out / "000002.tar").unlink()
    before = (out / "000000.tar").stat().st_mtime_ns
    assert ShardWriter(out, 5, {}, 2).missing() == [1, 2]
    write(out)
    assert {p.name: p.read_bytes() for p in out.glob("*.tar")} == whole
    assert (out / "000000.tar").stat().st_mtime_ns == before


def test_a_shard_that_fails_is_not_there(tmp_path: Path):
    def members():
        yield member(hand(0))
        raise BrokenSample("no more")

    writer = ShardWriter(tmp_path / "out", 2, {})
    with pytest.raises(BrokenSample):
        writer.write(0, members())
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(InputError, match="two samples are named"):
        writer.write(0, [Member("a.b", b"x", {}), Member("a_b", b"x", {})])
    assert not list((tmp_path / "out").iterdir())


def test_a_shard_may_lack_samples(tmp_path: Path):
    writer = ShardWriter(tmp_path / "out", 4, {}, 2)
    writer.write(0, [LeftOut("broken"), Member("a", png(numbered(1)), {})])
    writer.write(1, [LeftOut("absent"), LeftOut("absent")])
    writer.finish()
    assert list(samples_of(tmp_path / "out")) == ["a"]
    assert writer.left_out == ShardWriter(tmp_path / "out", 4, {}, 2).left_out == ["broken", "absent", "absent"]
    samples = open_data(f"shards:{tmp_path}/out")
    assert samples.starts.tolist() == [0, 1]


def test_a_killed_writer_leaves_nothing_in_the_way(tmp_path: Path):
    out = tmp_path / "out"
    packing = Forked(["data", "pack", "embedded", "--out", out, "--per-shard", 500, "--workers", 0])
    until(lambda: out.exists() and any(out.iterdir()))
    packing.send(signal.SIGKILL)
    packing.wait()
    assert all(p.name.startswith(".") for p in out.iterdir())
    write(out)
    assert len(samples_of(out)) == 5
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 6}, "samples 5, not 6"),
        ({"per_shard": 3}, "per_shard 2, not 3"),
        ({"quality": 50}, "quality None, not 50"),
    ],
)
def test_shards_of_another_source_are_not_mixed(options, words, tmp_path: Path):
    write(tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match=f"holds shards with {words}: give another --out"):
        write(tmp_path / "out", **options)
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


# --- data pack -------------------------------------------------------------------------------------------------------


def run(capsys, *arguments, code: int = 0) -> str:
    """`ti-backbones data ARGUMENTS` in this process; gives what it printed, or its one line of error."""
    capsys.readouterr()
    assert cli.main(["data", *map(str, arguments)]) == code
    said = capsys.readouterr()
    if code != 2:
        return said.out
    [line] = [line for line in said.err.splitlines() if line.startswith("ti-backbones: error: ")]
    return line


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The spec of 30 samples, not square."""
    writer = ShardWriter(tmp_path / "source", 30, {})
    members = (member(replace(hand(i), image=hand(i).image[:80], mask=hand(i).mask[:80]), 100) for i in range(30))
    writer.write(0, members)
    return f"shards:{tmp_path}/source?mirror=no"


def test_packed_samples_are_the_sets(source, tmp_path: Path, capsys):
    out = tmp_path / "out"
    said = run(capsys, "pack", source, "--out", out, "--per-shard", 8, "--workers", 0, "--quality", 100)
    assert "packed 30 samples into 4 shards" in said
    assert f"train with shards:{out}" in said
    expected, found = samples_of(tmp_path / "source"), samples_of(out)
    assert found.keys() == expected.keys()
    assert list(found) != list(expected)
    for key, sample in expected.items():
        same(sample, found[key], "image")
        assert np.abs(sample.image.astype(int) - found[key].image).mean() < 6  # noise, encoded once more
    ordered = tmp_path / "ordered"
    run(capsys, "pack", source, "--out", ordered, "--no-shuffle", "--per-shard", 8, "--workers", 2, "--quality", 100)
    assert list(samples_of(ordered)) == list(expected)
    before = {p.name: p.read_bytes() for p in out.glob("*.tar")}
    (out / "000002.tar").unlink()
    run(capsys, "pack", source, "--out", out, "--per-shard", 8, "--workers", 2, "--quality", 100)
    assert {p.name: p.read_bytes() for p in out.glob("*.tar")} == before


@pytest.mark.parametrize(("height", "width", "size"), [(80, 96, 40), (91, 64, 128), (64, 64, 64), (50, 50, 33)])
def test_labels_go_with_a_resized_image(height, width, size):
    """A blob drawn at a joint is found where the label says, to a tenth of a pixel; K and mask agree with it."""
    sample = hand(3)
    y, x = np.mgrid[:height, :width] + 0.5
    for at in ([30.3, 31.9], [40.0, 28.5]):
        blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2 / 2**2)
        sample.joints_px[5] = at
        sample.joints_mm[5] = np.linalg.inv(sample.intrinsics) @ [*at, 1] * 500
        sample.image = (blob[..., None] * np.float64([255, 255, 255])).astype(np.uint8)
        sample.mask = blob > 0.5
        moved = fit(replace(sample, crop=None), size)
        assert moved.image.shape == (size, size, 3)
        weight = moved.image[..., 0] / 255
        v, u = np.mgrid[:size, :size] + 0.5
        centre = np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(moved.joints_px[5], centre, atol=0.1)
        np.testing.assert_allclose(project(moved.joints_mm, moved.intrinsics)[5], moved.joints_px[5], atol=1e-3)
        place = np.array([u[moved.mask].mean(), v[moved.mask].mean()])
        np.testing.assert_allclose(place, moved.joints_px[5], atol=0.6)
        if moved.crop is not None:
            np.testing.assert_allclose(moved.crop @ [*at, 1], [*moved.joints_px[5], 1], atol=1e-4)


def broken_folder(folder: Path, n: int, numbers) -> Path:
    folder.mkdir()
    for i in range(n):
        (folder / f"{i:03d}.png").write_bytes(b"" if i in numbers else png(numbered(i % 256)))
    return folder


def test_broken_samples_are_left_out_of_a_packing_and_named(tmp_path: Path, capsys):
    folder, out = broken_folder(tmp_path / "images", 50, {3, 40}), tmp_path / "out"
    said = run(capsys, "pack", f"folder:{folder}", "--out", out, "--workers", 0)
    assert "packed 48 samples into 1 shards" in said
    assert said.count("left out: image") == 2
    assert f"{folder}/040.png" in said
    assert set(samples_of(out)) == {f"{i:03d}.png" for i in range(50)} - {"003.png", "040.png"}
    for i in (7, 8):
        (folder / f"{i:03d}.png").write_bytes(b"")
    line = run(
        capsys, "pack", f"folder:{folder}", "--out", tmp_path / "more", "--workers", 0, "--per-shard", 10, code=2
    )
    assert "samples read of" in line
    assert f"ti-backbones data check 'folder:{folder}' names all" in line
    assert not list((tmp_path / "more").glob(".*"))


def test_an_interrupted_packing_leaves_whole_shards_and_goes_on(tmp_path: Path):
    out, options = tmp_path / "out", ["--per-shard", 40, "--workers", 1]
    packing = Forked(["data", "pack", "embedded", "--out", out, *options])
    until((out / "000002.tar").exists)
    packing.send(signal.SIGINT)
    ended = packing.wait()
    assert ended.code == 130
    assert ended.lines == ["ti-backbones: interrupted; the same command continues"]
    names = sorted(p.name for p in out.iterdir())
    assert len(names) < 20
    assert names == [*(f"{i:06d}.tar" for i in range(len(names) - 1)), MANIFEST]
    assert len(open_data(f"shards:{out}")) == 40 * (len(names) - 1)
    ended = forked("data", "pack", "embedded", "--out", out, *options)
    assert ended.code == 0, ended.err
    assert f"packed {len(open_data('embedded'))} samples" in ended.out
    assert len(open_data(f"shards:{out}")) == len(open_data("embedded"))


def test_no_room_for_a_shard(tmp_path: Path):
    """The shards before it stay."""
    out = tmp_path / "out"
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i, side in enumerate([8, 8, 8, 200]):
        image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        (tmp_path / "images" / f"{i}.png").write_bytes(png(image))
    options = ["--no-shuffle", "--per-shard", 1, "--workers", 0]
    ended = forked("data", "pack", f"folder:{tmp_path}/images", "--out", out, *options, file_limit=40_000)
    assert_one_line(ended, f"cannot write '{out}/000003.tar'", "free space")
    assert sorted(p.name for p in out.iterdir()) == ["000000.tar", "000001.tar", "000002.tar", MANIFEST]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--quality", 0), ("--quality is 0", "from 1 to 100")),
        (("--size", -1), ("--size is -1", "0 or more")),
        (("--per-shard", 0), ("--per-shard is 0", "at least 1")),
        (("--workers", -1), ("--workers is -1", "0 or more")),
        (("--out", "other"), ("holds other files", "give another --out")),
        (("--out", "file"), ("it is a file", "give another --out")),
        (("--out", "damaged"), ("shards.json' cannot be read", "give another --out")),
    ],
)
def test_a_packing_that_cannot_be(options, words, tmp_path: Path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "damaged").mkdir()
    for file in ("file", "other/notes.txt", "damaged/shards.json"):
        (tmp_path / file).write_text("{")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    option, value = options
    arguments = {"--out": tmp_path / "new", option: tmp_path / value if option == "--out" else value}
    line = run(capsys, "pack", "embedded", *(a for pair in arguments.items() for a in pair), code=2)
    for word in words:
        assert word in line
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


# --- data check ------------------------------------------------------------------------------------------------------


def test_check_counts_what_is_there(source, tmp_path: Path, capsys):
    for spec, code in (("embedded?split=test", 0), (source, 1)):
        said = run(capsys, "check", spec, "--json", tmp_path / "c.json", "--workers", 0, code=code)
        report = json.loads((tmp_path / "c.json").read_text())
        samples = open_data(spec)
        all_of = [samples[i] for i in range(len(samples))]
        assert report["samples"] == len(samples)
        assert report["right"] == sum(s.right is True for s in all_of)
        assert report["left"] == sum(s.right is False for s in all_of)
        assert report["mirrored"] == sum(s.mirrored for s in all_of)
        assert report["joints"] == sum(21 if s.valid is None else s.valid.sum() for s in all_of)
        assert report["sizes"] == {f"{all_of[0].image.shape[1]} x {all_of[0].image.shape[0]}": len(samples)}
        assert f"samples         {len(samples)}, of them usable {report['usable']}" in said


def test_check_names_what_is_broken(tmp_path: Path, capsys):
    label = to_json(hand(1))
    unsound = label | {"joints_mm": [[None] * 3, *label["joints_mm"][1:]], "valid": [1] * 21}
    flat = label | {"K": [[0, 0, 1], [0, 5, 1], [0, 0, 1]]}
    cut = png(hand(0).image)[:500]
    members: dict[str, bytes] = {"good.png": png(numbered(1)), "good.json": b"{}", "cut.png": cut, "empty.png": b""}
    for name, value in {"nan": unsound, "flat": flat, "text": None}.items():
        members |= {f"{name}.png": png(numbered(2)), f"{name}.json": json.dumps(value).encode() if value else b"{"}
    write_tar(tmp_path / "0.tar", members)
    write_tar(tmp_path / "1.tar", {"good.png": png(numbered(3)), "fine.png": png(numbered(4))})
    spec, file = f"shards:{tmp_path}", tmp_path / "c.json"
    for workers in (0, 2):
        said = run(capsys, "check", spec, "--json", file, "--workers", workers, code=1)
        report = json.loads(file.read_text())
        problems = [f"{b['sample']}: {b['problem']}" for b in report["broken"]]
        assert [p.split(":")[0] for p in problems] == ["1", "2", "3", "4", "5", "6 good"]
        for part, words in zip(
            problems,
            (
                ("0.tar:cut.png", "truncated"),
                ("0.tar:empty.png", "no known image format"),
                ("0.tar:nan.json", "joint 0 is [nan, nan, nan]"),
                ("0.tar:flat.json", "focal lengths 0 and 5"),
                ("0.tar:text.json", "cannot be read"),
                ("sample 0 has the same name",),
            ),
            strict=True,
        ):
            assert all(word in part for word in words), (part, words)
            assert part in said
        assert report["usable"] == 2


def unsound(**changes) -> Sample:
    sample = hand(5)
    sample.crop, sample.valid[:] = np.eye(3), True
    sample.joints_px = project(sample.joints_mm, sample.intrinsics)
    return replace(sample, **{k: v(getattr(sample, k)) for k, v in changes.items()})


def at(index, value):
    """A change of one entry."""

    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"valid": at(7, False), "joints_mm": at(7, np.nan), "joints_px": at(7, np.inf)}, None),
        ({"valid": at(7, False), "joints_mm": at((7, 2), -5)}, None),
        ({"joints_mm": at(7, np.nan)}, "joints_mm of joint 7 is [nan, nan, nan]"),
        ({"joints_px": at((7, 1), np.inf)}, "joints_px of joint 7"),
        ({"joints_mm": at((7, 2), -5)}, "joint 7 lies 5 mm behind the camera"),
        ({"joints_px": lambda p: p + np.float32([0.9, 0])}, None),
        ({"joints_px": lambda p: p + np.float32([1.1, 0])}, "lies 1.10 px beside its projection"),
        ({"intrinsics": at((0, 0), 0)}, "focal lengths 0 and"),
        ({"intrinsics": at((1, 1), -3)}, "and -3"),
        ({"intrinsics": at((1, 2), np.nan)}, "no finite 3 x 3 matrix"),
        ({"intrinsics": at((2, 0), 1)}, "its K ends in [1.0, 0.0, 1.0]"),
        ({"mask": lambda m: m[:50]}, "its mask is of shape (50, 96), its image 96 x 96"),
        ({"crop": lambda c: c * 0}, "cannot be inverted"),
        ({"crop": at((0, 0), np.nan)}, "cannot be inverted"),
        ({"joints_mm": lambda j: None, "joints_px": lambda p: p + 100}, "lies outside the 96 x 96 image"),
        ({"joints_mm": lambda j: None, "joints_px": lambda p: p - 60}, None),
        ({"joints_mm": lambda j: j[:20]}, "joints_mm is of shape (20, 3)"),
        ({"valid": lambda v: v[:20]}, "valid is of shape (20,)"),
    ],
)
def test_what_makes_a_label_unsound(changes, words):
    found = problem(unsound(**changes))
    assert found is None if words is None else words in found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("folder:nowhere",), ("'nowhere' does not exist",)),
        (("shards:nowhere",), ("no tar file at 'nowhere'",)),
        (("embedded", "--tolerance", "nan"), ("--tolerance is nan", "above 0")),
        (("embedded", "--workers", -1), ("--workers is -1",)),
        ((), ("--help",)),
        (("embedded?split=test", "--json", "file/c.json", "--workers", 0), ("cannot write",)),
    ],
)
def test_a_check_that_cannot_be(arguments, words, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    line = run(capsys, "check", *arguments, code=2)
    for word in words:
        assert word in line


# --- data show -------------------------------------------------------------------------------------------------------


def test_the_bones_are_a_tree_from_the_wrist():
    reached = {0}
    for a, b, finger in BONES:
        assert a in reached
        assert b not in reached
        assert b - 1 in range(4 * finger, 4 * finger + 4)
        reached.add(b)
    assert reached == set(range(21))


def colour(name: str) -> np.ndarray:
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])


def test_a_skeleton_is_drawn_where_the_joints_are():
    image, side = np.zeros((60, 120, 3), np.uint8), 240
    joints = np.full((21, 2), [60.0, 50.0])
    for j in range(1, 21):
        finger, place = divmod(j - 1, 4)
        joints[j] = [20 + 20 * finger, 40 - 10 * place]
    valid = np.ones(21, bool)
    valid[17:] = False
    drawn = np.asarray(tile(image, side, joints, valid)).astype(int)
    assert drawn.shape == (240, 240, 3)
    assert (drawn[[0, -1]] == 255).all()  # an image that is wider than high lies in the middle
    for finger in range(5):
        x, y = (joints[1 + 4 * finger] + joints[2 + 4 * finger]) / 2 * 2 + [0, 60]  # the middle of a bone
        found = drawn[round(y), round(x)]
        expected = colour(COLOURS[finger]) if finger < 4 else np.zeros(3)
        assert np.abs(found - expected).max() < 40, finger
    assert np.array_equal(np.asarray(tile(image, side)), np.asarray(tile(image, side, joints, valid & False)))
    far = np.full((21, 2), np.nan)
    far[3] = 1e30
    assert np.array_equal(np.asarray(tile(image, side)), np.asarray(tile(image, side, far)))


def test_a_sheet_holds_every_tile():
    tiles = [Image.new("RGB", (20, 20), (i, 0, 200)) for i in range(7)]
    page = np.asarray(sheet(tiles, [f"a name that is too long {i}" for i in range(7)], 3))
    assert {tuple(c) for c in page.reshape(-1, 3)} >= {(i, 0, 200) for i in range(7)}


def test_show_draws_a_set(tmp_path: Path, capsys):
    for options in ((), ("--no-joints",)):
        out = tmp_path / f"sheet{len(options)}.png"
        run(capsys, "show", "embedded", "--out", out, "--num", 6, "--side", 96, *options)
    with_joints, plain = (np.asarray(Image.open(tmp_path / f"sheet{i}.png")).astype(int) for i in (0, 1))
    assert with_joints.shape == plain.shape == (2 * (96 + 18) + 4, 3 * (96 + 4) + 4, 3)
    changed = (with_joints != plain).any(2).mean()
    assert 0.01 < changed < 0.4
    first = open_data("embedded")[0].image
    shown = plain[4:100, 4:100]
    assert np.abs(shown - np.asarray(Image.fromarray(first).resize((96, 96)))).mean() < 8


def test_a_broken_sample_is_shown_as_such(tmp_path: Path, capsys):
    folder = broken_folder(tmp_path / "images", 4, {2})
    run(capsys, "show", f"folder:{folder}", "--out", tmp_path / "sheet.jpg", "--side", 50)
    page = np.asarray(Image.open(tmp_path / "sheet.jpg")).astype(int)
    assert (np.abs(page - [255, 0, 0]).max(2) < 30).sum() == pytest.approx(50 * 50, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "x.txt"), ("--out is 'x.txt'", ".png")),
        (("--out", "x.png", "--num", 0), ("--num is 0",)),
        (("--out", "x.png", "--side", 9999), ("--side is 9999",)),
        (("--out", "file/x.png"), ("cannot write 'file/x.png'",)),
        ((), ("--out", "--help")),
    ],
)
def test_a_sheet_that_cannot_be(arguments, words, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    line = run(capsys, "show", "embedded", *arguments, code=2)
    for word in words:
        assert word in line
    assert os.listdir() == ["file"]
