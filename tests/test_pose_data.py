"""Labelled hands as tensors, what counts, and how validation and label subsets are drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hands import write_shard

from ti_backbones.data import Sample, open_data
from ti_backbones.data.sample import project
from ti_backbones.errors import InputError, NoHand
from ti_backbones.pose import data


def shard(path: Path, count: int = 12, change=lambda i, label: None):
    return open_data(f"shards:{write_shard(path / 'hands.tar', count, change)}")


@pytest.mark.parametrize("shape", [(96, 96), (60, 100), (111, 70)])
def test_fitting_moves_pixels_and_camera_with_the_image(shape):
    height, width = shape
    rng = np.random.default_rng(0)
    k = np.array([[150, 0, width / 2 + 7], [0, 160, height / 2 - 3], [0, 0, 1]], np.float32)
    joints = (rng.normal(size=(21, 3)) * 40 + [0, 0, 500]).astype(np.float32)
    image = rng.integers(0, 255, (height, width, 3), np.uint8)
    sample = Sample("a", image, joints, project(joints, k), k)
    fitted = data.fit(sample, 48)
    assert fitted.image.shape == (48, 48, 3)
    assert np.abs(project(joints, fitted.intrinsics) - fitted.joints_px).max() < 1e-3
    side = min(shape)
    corner = np.array([(width - side) // 2, (height - side) // 2])
    assert np.allclose(fitted.joints_px, (sample.joints_px - corner) * 48 / side, atol=1e-3)
    assert np.allclose(fitted.crop @ [*corner, 1], [0, 0, 1])


def test_hands_without_a_root_do_not_count(tmp_path: Path):
    def change(i: int, label: dict) -> None:
        if i in (2, 5):
            label["valid"] = [int(j != 0) for j in range(21)]
        if i == 7:
            label["valid"] = [int(j == 0) for j in range(21)]
        if i == 9:
            label.pop("joints_mm")
        if i == 1:
            label["valid"] = [int(j < 9) for j in range(21)]

    samples = shard(tmp_path, 12, change)
    hands = data.load(samples, 32)
    assert hands.tensors["index"].tolist() == [0, 1, 3, 4, 6, 8, 10, 11]
    assert hands.tensors["valid"][1].sum() == 9
    with pytest.raises(NoHand, match="no root and other joint"):
        data.PoseImages(samples, 32)[5]
    assert data.PoseImages(samples, 32, root_only=True)[7]["valid"].sum() == 1
    replaced = data.load(samples, 32, keep_replaced=True)
    assert len(replaced) == 12
    assert not {2, 5, 7, 9} & set(replaced.tensors["index"].tolist())


def test_a_set_without_labels_is_refused(images: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no hand with labelled joints"):
        data.load(open_data(f"folder:{images}"), 32)
    nobody = shard(tmp_path, 6, lambda i, label: label.update(valid=[0] * 21))
    with pytest.raises(InputError, match="none of 6 samples can be used"):
        data.load(nobody, 32)


def test_left_hands_are_mirrored_to_right_ones(tmp_path: Path):
    def change(i: int, label: dict) -> None:
        label["side"] = "left" if i % 2 else "right"

    path = write_shard(tmp_path / "hands.tar", 6, change)
    mirrored = data.load(open_data(f"shards:{path}"), 32).tensors
    kept = data.load(open_data(f"shards:{path}?mirror=no"), 32).tensors
    assert mirrored["mirrored"].tolist() == [False, True] * 3
    assert mirrored["side"].tolist() == [1.0] * 6
    assert kept["side"].tolist() == [1.0, -1.0] * 3
    sign = torch.tensor([-1.0, 1, 1])
    assert torch.allclose(mirrored["joints"][1::2], kept["joints"][1::2] * sign)
    assert torch.equal(mirrored["image"][1::2], kept["image"][1::2].flip(-1))


# --- Validation and label subsets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["subject", "identity", "sequence", "label"])
def test_validation_shares_no_group_with_training(name: str, tmp_path: Path):
    samples = shard(tmp_path, 30, lambda i, label: label.update(extra={name: f"p{i % 7}"}))
    train, held, how = data.split_validation(samples, 0.2, 0)
    groups = [{samples[int(i)].extra[name] for i in part.indices} for part in (train, held)]
    assert not groups[0] & groups[1]
    assert len(train) + len(held) == 30
    assert 6 <= len(held) <= 12
    assert name in how
    assert set(data.split_validation(samples, 0.2, 0)[1].indices) == set(held.indices)
    drawn = [tuple(data.split_validation(samples, 0.2, seed)[1].indices) for seed in range(6)]
    assert len(set(drawn)) > 1


def test_what_is_parted_twice_shares_no_group():
    """Groups that a reader says without reading a file hold for parts of its set, too."""

    class Read:
        spec = "made"

        def __len__(self):
            return 120

        def __getitem__(self, index: int):
            raise AssertionError("it was read")

        def group(self, index: int) -> str:
            return str(index % 30)

    train, test, _ = data.split_validation(Read(), 0.2, 1)
    train, validation, how = data.split_validation(train, 0.2, 0)
    assert "groups" in how
    parts = [{i % 30 for i in some} for some in (_places(train), _places(validation), test.indices.tolist())]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30


def _places(part: data.Selection) -> list[int]:
    return part.samples.indices[part.indices].tolist()  # pyright: ignore[reportAttributeAccessIssue]


def test_hands_that_stand_for_a_set_are_not_its_first(tmp_path: Path):
    hands = data.load(shard(tmp_path, 30), 32)
    chosen = data.drawn(hands, 10)["index"].tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert max(chosen) > 14
    assert data.drawn(hands, 40)["index"].tolist() == list(range(30))


def test_validation_without_groups_is_a_share_drawn_by_seed(tmp_path: Path):
    samples = shard(tmp_path, 30, lambda i, label: label.update(extra={}))
    train, held, how = data.split_validation(samples, 0.2, 0)
    assert (len(train), len(held)) == (24, 6)
    assert "drawn by seed" in how
    assert not set(train.indices) & set(held.indices)
    one = shard(tmp_path, 30, lambda i, label: label.update(extra={"subject": "same"}))
    assert len(data.split_validation(one, 0.2, 0)[1]) == 6  # one group cannot be parted


def test_label_subsets_are_nested():
    subsets = [set(data.label_subset(1000, labels, 3).tolist()) for labels in (0.01, 25, 0.1, 0.5, 1.0)]
    assert [len(s) for s in subsets] == [10, 25, 100, 500, 1000]
    assert all(a < b for a, b in itertools.pairwise(subsets))
    assert subsets[0] != set(data.label_subset(1000, 0.01, 4).tolist())
