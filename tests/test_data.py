"""Readers give the images that are there, in an order that is a function of seed, step and position."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ti_backbones.data import ImageSet, load_all, open_data, read
from ti_backbones.data.images import decode, square
from ti_backbones.data.order import StepSampler, generator, uniforms
from ti_backbones.errors import InputError

# --- Order -----------------------------------------------------------------------------------------------------------

runs = st.tuples(
    st.integers(1, 4), st.integers(1, 6), st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**40)
)  # processes, share, left over, epochs, seed


@given(runs)
@settings(deadline=None, max_examples=50)
def test_each_epoch_is_a_permutation_that_the_processes_partition(run):
    world, share, more, epochs, seed = run
    batch = world * share
    length = 3 * batch + more % batch
    per_epoch = length // batch
    shares = [list(StepSampler(length, batch, epochs * per_epoch, 0, seed, rank, world)) for rank in range(world)]
    whole = list(StepSampler(length, batch, epochs * per_epoch, 0, seed))
    assert all(len(s) == epochs * per_epoch for s in shares)
    for step, expected in enumerate(whole):
        assert [i for s in shares for i in s[step]] == expected
    for epoch in range(epochs):
        seen = [i for batch in whole[epoch * per_epoch : (epoch + 1) * per_epoch] for i in batch]
        assert len(seen) == len(set(seen)) == per_epoch * batch
        assert set(seen) <= set(range(length))


@given(runs, st.integers(0, 8))
@settings(deadline=None, max_examples=30)
def test_a_resumed_order_is_the_rest_of_the_whole(run, start):
    _, share, more, epochs, seed = run
    length = 3 * share + more % share
    steps = epochs * (length // share)
    start = min(start, steps)
    rest = StepSampler(length, share, steps, start, seed)
    assert len(rest) == steps - start
    assert list(rest) == list(StepSampler(length, share, steps, 0, seed))[start:]


def test_epochs_and_seeds_differ():
    a, b = (list(StepSampler(100, 10, 20, 0, seed)) for seed in (0, 1))
    assert a[:10] != a[10:]
    assert a != b


def test_every_image_has_its_turn():
    """Though each epoch leaves out the last incomplete batch."""
    seen = {i for batch in StepSampler(19, 10, 40, 0, 0) for i in batch}
    assert seen == set(range(19))


def test_uniforms_are_functions_of_seed_and_step():
    u = uniforms(3, 7, 1000, 5)
    assert torch.equal(u, uniforms(3, 7, 1000, 5))
    for other in (uniforms(3, 8, 1000, 5), uniforms(4, 7, 1000, 5)):
        assert not torch.equal(u, other)
        assert abs(np.corrcoef(u.flatten(), other.flatten())[0, 1]) < 0.06
    assert u.dtype == torch.float64
    assert 0 <= u.min() < u.max() < 1
    assert u.mean(0).sub(0.5).abs().max() < 0.05


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
def test_generators_tell_numbers_from_each_other(numbers):
    first = generator(*numbers).initial_seed()
    assert first == generator(*numbers).initial_seed()
    assert first != generator(*numbers, 0).initial_seed()
    assert first != generator(numbers[0] ^ 1, *numbers[1:]).initial_seed()


# --- Images ----------------------------------------------------------------------------------------------------------


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(mode):
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 90)).convert(mode).save(out, "TIFF")
    image = decode(out.getvalue(), "x")
    assert image.shape == (10, 20, 3)
    assert image.dtype == np.uint8


@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from([8, 32]))
@settings(deadline=None, max_examples=30)
def test_squares_are_cut_from_the_centre(height, width, size):
    image = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = 200
    out = square(image, size)
    assert out.shape == (3, size, size)
    assert (out == 200).all()  # all of the square, and nothing beside it


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(square(image, 32).permute(1, 2, 0).numpy(), image)


# --- Readers ---------------------------------------------------------------------------------------------------------


def numbered(i: int) -> np.ndarray:
    return np.full((16, 16, 3), i, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images in nested folders, one reached by a link that leads in a circle, and other files."""
    root = tmp_path / "root"
    for i, name in enumerate(["a/1.png", "a/2.PNG", "b/c/3.png", "4.png", "ü.png", "a b.png", "z/5.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(numbered(i)))
    (root / "notes.txt").write_text("none")
    (root / ".hidden.png").write_text("none")
    os.symlink(root, root / "z" / "circle")
    return root


def test_a_folder_gives_every_image_once_in_a_fixed_order(folder: Path):
    samples = open_data(f"folder:{folder}")
    keys = [samples[i].key for i in range(len(samples))]
    assert keys == sorted(keys)
    assert set(keys) == {"a/1.png", "a/2.PNG", "b/c/3.png", "4.png", "ü.png", "a b.png", "z/5.png"}
    assert sorted(int(samples[i].image[0, 0, 0]) for i in range(7)) == list(range(7))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_shards_give_images_with_their_labels(tmp_path: Path):
    joints = np.arange(63, dtype=np.float32).reshape(21, 3)
    label = json.dumps({"joints_mm": joints.tolist(), "K": np.eye(3).tolist(), "side": "left"}).encode()
    write_tar(tmp_path / "1.tar", {"x/7.png": png(numbered(7)), "x/7.json": label, "note.txt": b"none"})
    write_tar(tmp_path / "0.tar", {"3.a.png": b"", "3.png": png(numbered(3)), "4.jpg": png(numbered(4))})
    for spec in (f"shards:{tmp_path}?mirror=no", f"shards:{tmp_path}/*.tar?mirror=no"):
        samples = open_data(spec)
        got = [samples[i] for i in range(len(samples))]
        assert [s.key for s in got] == ["3", "4", "x/7"]
        assert [int(s.image[0, 0, 0]) for s in got] == [3, 4, 7]
        assert got[0].joints_mm is None
        assert np.array_equal(got[2].joints_mm, joints)
        assert np.array_equal(got[2].intrinsics, np.eye(3))
        assert got[2].right is False
    assert len(open_data(f"shards:{tmp_path}/1.tar")) == 1


def test_a_range_in_braces_stands_for_its_numbers(tmp_path: Path):
    for i in (8, 9, 10, 11):
        write_tar(tmp_path / f"{i:03d}.tar", {f"{i}.png": png(numbered(i))})
    samples = open_data(f"shards:{tmp_path}/{{009..011}}.tar")
    assert [samples[i].key for i in range(len(samples))] == ["9", "10", "11"]
    with pytest.raises(InputError, match="no tar file"):
        open_data(f"shards:{tmp_path}/{{009..012}}.tar")


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path: Path):
    write_tar(tmp_path / "a[1].tar", {"3.png": png(numbered(3))})
    assert len(open_data(f"shards:{tmp_path}/a[1].tar")) == 1


def test_a_label_that_cannot_be_read_is_named(tmp_path: Path):
    samples = open_data(f"shards:{write_tar(tmp_path / '0.tar', {'3.png': png(numbered(3)), '3.json': b'{'})}")
    with pytest.raises(InputError, match=r"label '.*0.tar:3.json' cannot be read"):
        samples[0]


def test_a_reader_can_be_sent_to_another_process(folder: Path, tmp_path: Path):
    write_tar(tmp_path / "0.tar", {"3.png": png(numbered(3))})
    for spec in (f"folder:{folder}", f"shards:{tmp_path}/0.tar"):
        samples = open_data(spec)
        first = samples[0].image
        assert np.array_equal(pickle.loads(pickle.dumps(samples))[0].image, first)


@pytest.mark.parametrize(("split", "count"), [("train", 1500), ("test", 500)])
def test_the_embedded_set(split, count):
    samples = open_data("embedded", split)
    assert len(samples) == len(open_data(f"embedded?split={split}")) == count
    for i in (0, count - 1):
        sample = samples[i]
        assert sample.image.shape == (128, 128, 3)
        assert sample.joints_mm.shape == (21, 3)
        assert sample.intrinsics.shape == (3, 3)
        points = sample.joints_mm @ sample.intrinsics.T
        assert (points[:, 2] > 0).all()
        centre = (points[:, :2] / points[:, 2:]).mean(0)
        assert (centre > 10).all()
        assert (centre < 118).all()  # joints in the crop's pixels: K goes with the image


def test_the_embedded_splits_share_no_image():
    sets = (open_data("embedded", split) for split in ("train", "test"))
    images = [{samples[i].image.tobytes() for i in range(len(samples))} for samples in sets]
    assert not images[0] & images[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_images_asked_for(workers, folder: Path):
    images = ImageSet(open_data(f"folder:{folder}"), 16)
    asked = [[4, 1], [0], [6, 5, 4]]
    for indices, batch in zip(asked, read(images, asked, workers), strict=True):
        assert torch.equal(batch, torch.stack([images[i] for i in indices]))
    whole = load_all(images.samples, 16, workers=workers)
    assert torch.equal(whole.images, torch.stack([images[i] for i in range(7)]))
    assert len(load_all(images.samples, 16, limit=3)) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line_too(workers, folder: Path):
    for name in ("4.png", "a/1.png", "z/5.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        load_all(open_data(f"folder:{folder}"), 16, workers=workers)
    assert str(caught.value).startswith(f"3 of 7 samples read of 'folder:{folder}' are broken, more than 1%: image '")
    assert f"image '{folder}/4.png' cannot be read (no known image format)" in str(caught.value)
    assert "\n" not in str(caught.value)
