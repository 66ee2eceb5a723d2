"""Readers of the real hand sets, on small trees in their layouts: every label in our conventions, every crop exact."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fixtures import dexycb, freihand, ho3d, interhand, scenes
from fixtures.trees import Trees, changed, without
from running import forked

from ti_backbones.data import Sample, open_data
from ti_backbones.data.labels import from_json, to_json
from ti_backbones.data.sample import project
from ti_backbones.errors import NoHand

SPLITS = [
    *(("dexycb", split) for split in ("s0/train", "s0/val", "s0/test", "s2/test")),
    *(("interhand", part) for part in ("train", "val", "test")),
    *(("freihand", part) for part in ("training", "evaluation")),
    *(("ho3d", part) for part in ("train", "evaluation")),
]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory.getbasetemp())


def usable(samples) -> list[Sample]:
    """All samples that show a hand."""
    found = []
    for i in range(len(samples)):
        try:
            found.append(samples[i])
        except NoHand:
            assert samples.key(i) == "BB11/0005"  # the one frame of all trees that is listed and has none
    return found


def truth_of(trees: Trees, name: str, split: str, key: str) -> scenes.Scene:
    """What was written under a key."""
    truth = trees.truth(name)
    if name == "interhand":
        base, _, side = key.rpartition("_")
        return truth[split][int(base.rpartition("image")[2]) - 100].hands[side]
    return truth[split][key] if name == "ho3d" else truth[key]


# --- Labels and crops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "mirror=no&size=97&scale=1.0", "size=300&scale=2.5"])
@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_joints_projected_through_the_crops_camera_meet_the_labels(trees: Trees, name: str, split: str, query: str):
    samples = usable(trees.open(name, f"split={split}&{query}"))
    assert samples
    for sample in samples:
        truth, size = truth_of(trees, name, split, sample.key), sample.image.shape[0]
        assert sample.image.shape == (size, size, 3)
        valid = sample.valid
        projected = project(sample.joints_mm[valid], sample.intrinsics)
        assert np.abs(projected - sample.joints_px[valid]).max() < 0.05
        moved = np.concatenate([truth.points, np.ones((21, 1))], 1) @ sample.crop.T
        assert np.abs(moved[:, :2] - sample.joints_px)[valid].max() < 0.05
        sign = [-1, 1, 1] if sample.mirrored else [1, 1, 1]
        assert np.abs(sample.joints_mm - truth.joints_mm * sign)[valid].max() < 0.01
        assert sample.mirrored == ("mirror=no" not in query and not truth.right)
        assert sample.right == (truth.right != sample.mirrored)
        k = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]) if not sample.mirrored else np.diag([-1, 1, 1])
        assert np.abs(sample.crop @ truth.intrinsics @ k - sample.intrinsics).max() < 1e-3


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_the_box_of_the_joints_sits_in_the_middle_of_the_crop(trees: Trees, name: str, split: str):
    for sample in usable(trees.open(name, f"split={split}&size=120")):
        if sample.valid.all():  # else the box is about joints that the sample does not count, too
            low, high = sample.joints_px.min(0), sample.joints_px.max(0)
            assert (low + high) / 2 == pytest.approx([60, 60], abs=1e-3)
            assert max(high - low) == pytest.approx(100, abs=1e-3)  # 120 / 1.2


def spots(trees: Trees, name: str, split: str) -> list[tuple[str, Path]]:
    """Samples whose joint 9 lies well inside the frame: key and image file."""
    samples, found = trees.open(name, f"split={split}"), []
    for i in range(len(samples)):
        frame = samples.labels(i)
        inside = (frame.joints_px[9] > 25).all() and (frame.joints_px[9] < np.array(frame.image_size) - 25).all()
        if inside and frame.valid[9] and not frame.key.startswith("ABF10/0001"):
            found.append((frame.key, frame.image))
    return found


@pytest.mark.parametrize("name", ["dexycb", "interhand", "freihand", "ho3d"])
def test_what_is_seen_at_a_joint_is_seen_there_in_the_crop(trees: Trees, name: str):
    split, tried = {"dexycb": "s0/test", "interhand": "train", "freihand": "training", "ho3d": "train"}[name], 0
    for query in ("size=200", "size=331&mirror=no&scale=1.6"):
        samples = trees.open(name, f"split={split}&{query}")
        keys = [samples.key(i) for i in range(len(samples))]
        for key, file in spots(trees, name, split)[:6]:
            spot = scenes.spot(truth_of(trees, name, split, key), 9)
            with changed(file, scenes.jpeg(spot.image)):
                sample = samples[keys.index(key)]
            weight = np.clip(sample.image.mean(2) - 60, 0, None)
            x, y = np.meshgrid(np.arange(len(weight)) + 0.5, np.arange(len(weight)) + 0.5)
            centroid = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
            assert np.abs(centroid - sample.joints_px[9]).max() < 0.1
            assert abs(sample.crop[0, 0]) > 0.9  # half a pixel of the file is at least 0.45 of the crop, and would show
            tried += 1
    assert tried >= 8


def test_a_crop_that_leaves_the_image_is_black_there(trees: Trees):
    samples, keys = trees.open("dexycb", "split=s0/test"), 0
    for sample in usable(samples):
        height, width = sample.image.shape[:2]
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        back = np.linalg.inv(sample.crop)
        u, v = back[0, 0] * x + back[0, 2], back[1, 1] * y + back[1, 2]
        outside = (u < -3) | (v < -3) | (u > 643) | (v > 483)
        assert (sample.image[outside] <= 2).all()  # JPEG noise is inside the image; here are only the filter's ends
        keys += int(outside.sum() > 500)
    assert keys >= 3


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_a_sample_survives_json_and_pickle(trees: Trees, name: str, split: str):
    samples = trees.open(name, f"split={split}&size=64")
    again = pickle.loads(pickle.dumps(samples))
    for i in (0, len(samples) // 2):
        sample = samples[i]
        fields = from_json(json.loads(json.dumps(to_json(sample))))
        assert fields["extra"] == sample.extra == json.loads(json.dumps(sample.extra))
        assert np.array_equal(fields["joints_mm"], sample.joints_mm)
        assert np.abs(fields["joints_px"] - sample.joints_px)[sample.valid].max() < 2e-3
        for field in ("valid", "intrinsics", "crop"):
            assert np.array_equal(fields[field], getattr(sample, field))
        assert (fields["right"], fields["mirrored"]) == (sample.right, sample.mirrored)
        assert np.array_equal(again[i].image, sample.image)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_keys_are_unique_and_labels_are_there_without_the_image(trees: Trees, name: str, split: str):
    samples = trees.open(name, f"split={split}")
    keys = [samples.key(i) for i in range(len(samples))]
    assert len(set(keys)) == len(keys)
    assert len({key.partition(".")[0] for key in keys}) == len(keys)  # tar shards end a sample's name at a point
    frame = samples.labels(-1)
    assert frame.key == keys[-1]
    with without(frame.image):
        assert samples.labels(-1).key == keys[-1]
    with pytest.raises(IndexError):
        samples.labels(len(samples))


# --- DexYCB ----------------------------------------------------------------------------------------------------------

SEEN = {  # written out by hand from the official description, subjects and cameras counted from 1, sequences from 0
    "s0/train": ("1 2 3 4 5 6 7 8 9 10", "1 2 3 4 5 6 7 8", lambda i: i % 10 not in (4, 9)),
    "s0/val": ("1 2", "1 2 3 4 5 6 7 8", lambda i: i % 10 in (4, 9)),
    "s0/test": ("3 4 5 6 7 8 9 10", "1 2 3 4 5 6 7 8", lambda i: i % 10 in (4, 9)),
    "s1/train": ("1 2 3 4 5 6 10", "1 2 3 4 5 6 7 8", lambda i: True),
    "s1/val": ("7", "1 2 3 4 5 6 7 8", lambda i: True),
    "s1/test": ("8 9", "1 2 3 4 5 6 7 8", lambda i: True),
    "s2/train": ("1 2 3 4 5 6 7 8 9 10", "1 2 3 4 5 6", lambda i: True),
    "s2/val": ("1 2 3 4 5 6 7 8 9 10", "7", lambda i: True),
    "s2/test": ("1 2 3 4 5 6 7 8 9 10", "8", lambda i: True),
    "s3/train": (
        "1 2 3 4 5 6 7 8 9 10",
        "1 2 3 4 5 6 7 8",
        lambda i: not (15 <= i < 20 or 35 <= i < 40 or 55 <= i < 60 or 75 <= i < 80 or i >= 95),
    ),
    "s3/val": ("1 2 3 4 5 6 7 8 9 10", "1 2 3 4 5 6 7 8", lambda i: 15 <= i < 20 or i >= 95),
    "s3/test": (
        "1 2 3 4 5 6 7 8 9 10",
        "1 2 3 4 5 6 7 8",
        lambda i: 35 <= i < 40 or 55 <= i < 60 or 75 <= i < 80,
    ),
}


@pytest.mark.parametrize("split", SEEN)
def test_dexycb_splits(trees: Trees, split: str):
    subjects, cameras, takes = SEEN[split]
    expected = [
        f"{dexycb.SUBJECTS[int(s) - 1]}/{dexycb.sequence(i)}/{dexycb.SERIALS[int(c) - 1]}/{f:06d}"
        for s in subjects.split()
        for i in range(100)
        if takes(i)
        for c in cameras.split()
        for f in range(dexycb.FRAMES)
    ]
    samples = trees.open("dexycb", f"split={split}&absent=keep")
    assert [samples.key(i) for i in range(len(samples))] == expected  # in the official order too


def test_dexycb_leaves_out_what_is_not_annotated_and_counts_it(trees: Trees):
    truth = trees.truth("dexycb")
    samples = trees.open("dexycb", "split=s0/train")
    keys = [samples.key(i) for i in range(len(samples))]
    assert keys == sorted(k for k in truth if dexycb.sequence(4) not in k)
    assert samples.skipped == {"without a hand": 10 * 80 * 8 * dexycb.FRAMES - len(keys)}
    everything = trees.open("dexycb", "split=s0/train&absent=keep")
    assert everything.skipped == {}
    assert [everything.key(samples[i].extra["index"]) for i in range(len(keys))] == keys


def test_dexycb_by_hand(trees: Trees):
    name = f"{dexycb.SUBJECTS[0]}/{dexycb.sequence(1)}/{dexycb.SERIALS[2]}/000000"  # a left hand
    folder, _, number = name.rpartition("/")
    joints = np.array([[0.01 * j, -0.02, 0.5] for j in range(21)])
    points = np.array([[100.0 + 10 * j, 240.0] for j in range(21)])
    label, samples = trees["dexycb"] / folder / f"labels_{number}.npz", trees.open("dexycb", "size=240&mirror=no")
    before = label.read_bytes()
    np.savez(label, joint_3d=joints[None].astype(np.float32), joint_2d=points[None].astype(np.float32))
    try:
        sample = samples[[samples.key(i) for i in range(len(samples))].index(name)]
    finally:
        label.write_bytes(before)
    assert sample.joints_mm[3] == pytest.approx([30, -20, 500])  # millimetres, their order is ours
    # the box is 200 wide and centred at (200.5, 240.5); 1.2 x 200 = 240 a side: crop pixels are the file's
    assert sample.crop == pytest.approx(np.array([[1, 0, -80.5], [0, 1, -120.5], [0, 0, 1]]))
    assert sample.joints_px[3] == pytest.approx([130.5 - 80.5, 240.5 - 120.5])
    # camera 2's file says ppx = 312.4 + 2 - 0.5
    assert sample.intrinsics == pytest.approx(np.array([[612, 0, 313.9 + 0.5 - 80.5], [0, 613.5, 119.2], [0, 0, 1]]))
    assert (sample.right, sample.mirrored) == (False, False)
    assert sample.extra["subject"] == "20200709-subject-01"
    assert sample.extra["camera"] == "840412060917"


def test_dexycb_frames_whose_own_label_has_no_hand(trees: Trees):
    root, samples = trees["dexycb"], trees.open("dexycb", "split=s0/val")
    key = samples.key(0)
    scene, label = trees.truth("dexycb")[key], samples.labels(0).source
    dexycb.write_frame(root, key, None)
    try:
        assert (np.load(label)["joint_3d"] == -1).all()
        with pytest.raises(NoHand, match=r"shows no hand \(none is labelled\): add absent=keep"):
            samples[0]
        kept = trees.open("dexycb", "split=s0/val&absent=keep&size=64")[0]
        assert not kept.valid.any()
        assert np.isfinite(kept.joints_px).all()
        assert kept.crop == pytest.approx(np.array([[0.1, 0, 0], [0, 0.1, 8], [0, 0, 1]]))  # the whole 640 x 480 image
        with without(label.parent.parent / "pose.npz"):  # then the labels say who is absent
            again = trees.open("dexycb", "split=s0/val", anew=True)
        assert [again.key(i) for i in range(len(again))] == [samples.key(i) for i in range(1, len(samples))]
        assert again.skipped["without a hand"] == samples.skipped["without a hand"] + 1
    finally:
        dexycb.write_frame(root, key, scene)


def test_dexycb_hands_beside_the_image_are_no_hands(trees: Trees):
    root, samples = trees["dexycb"], trees.open("dexycb", "split=s0/val")
    key = samples.key(3)
    scene = trees.truth("dexycb")[key]
    beside = scenes.place(0, dexycb.SIZE, (700, 100), True, dexycb.intrinsics(3))
    dexycb.write_frame(root, key, beside)
    try:
        with pytest.raises(NoHand, match=r"its box \d+, \d+, \d+, \d+ lies outside the 640 x 480 image"):
            samples[3]
        assert not trees.open("dexycb", "split=s0/val&absent=keep")[3].valid.any()
    finally:
        dexycb.write_frame(root, key, scene)


# --- InterHand2.6M ---------------------------------------------------------------------------------------------------


def by_number(samples) -> dict[str, Sample]:
    return {sample.key.rpartition("image")[2]: sample for sample in usable(samples)}


def test_interhand_gives_a_sample_for_every_hand_with_a_root(trees: Trees):
    samples = trees.open("interhand")
    found = by_number(samples)
    assert list(found) == ["100_right", "101_left", "102_right", "102_left", "103_left", "104_right", "106_right"]
    assert samples.skipped == {"without a valid root": 2, "without a valid joint but the root": 1}
    assert found["102_right"].extra["index"] == found["102_left"].extra["index"] == 9002
    assert not np.array_equal(found["102_right"].image, found["102_left"].image)
    assert [s.extra["hand_type_valid"] for s in found.values()] == [True, True, True, True, False, True, True]
    assert all(s.right for s in found.values())  # mirrored
    unmirrored = by_number(trees.open("interhand", "mirror=no"))
    assert {k for k, s in unmirrored.items() if not s.right} == {"101_left", "102_left", "103_left"}
    assert samples.group(0) == "3"
    kept = trees.open("interhand", "absent=keep")
    assert len(kept) == 10
    rootless = next(kept[i] for i in range(10) if kept.key(i).endswith("103_right"))
    assert not rootless.valid.any()


def test_interhand_joints_are_valid_if_both_files_say_so(trees: Trees):
    found = by_number(trees.open("interhand"))
    assert found["100_right"].valid.all()
    assert np.flatnonzero(~found["106_right"].valid).tolist() == [4, 5]  # 1.0 1.0 1.0: thumb tip and index base
    truth = truth_of(trees, "interhand", "train", found["104_right"].key)
    outermost = scenes.OURS.index(interhand.outermost_joint(truth))
    assert np.flatnonzero(~found["104_right"].valid).tolist() == sorted([10, outermost])  # 10: middle finger's second
    # the crop is about what is annotated, whether it is inside the image or not
    frame = next(f for f in map(trees.open("interhand").labels, range(7)) if f.key.endswith("104_right"))
    others = np.delete(truth.points, 10, 0)
    assert frame.box == pytest.approx(np.concatenate([others.min(0), others.max(0)]), abs=1e-3)


def test_interhand_by_hand(tmp_path: Path):
    root = tmp_path / "set"
    shot = interhand.Shot({"left": scenes.place(0, interhand.SIZE, (100, 50), False)})
    interhand.write_split(root, "test", [shot])
    world = [[float(j), -30.0, 800.0] for j in range(42)]
    turn = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]  # x' = -y, y' = x
    camera = {"campos": [5.0, 0.0, 0.0], "camrot": turn, "focal": [1000.0, 1200.0], "princpt": [255.5, 166.5]}
    annotations = root / "annotations" / "test"
    joints = {"world_coord": world, "joint_valid": [[True]] * 42, "hand_type": "left", "hand_type_valid": True}
    for name, content in (
        ("camera", {"0": {field: {"400262": value} for field, value in camera.items()}}),
        ("joint_3d", {"0": {"100": joints}}),
    ):
        scenes.write(annotations / f"InterHand2.6M_test_{name}.json", json.dumps(content))
    samples = open_data(f"interhand:{root}?mirror=no", "test")
    sample, back = samples[0], np.linalg.inv(samples[0].crop)
    # X_camera = R (X - campos): (j, -30, 800) -> (30, j - 5, 800); our wrist is their 41, our thumb tip their 21
    assert sample.joints_mm[0] == pytest.approx([30, 36, 800])
    assert sample.joints_mm[4] == pytest.approx([30, 16, 800])
    ours = [41, 24, 23, 22, 21, 28, 27, 26, 25, 32, 31, 30, 29, 36, 35, 34, 33, 40, 39, 38, 37]
    assert sample.joints_mm[:, 1].tolist() == [j - 5 for j in ours]
    # 1000 x 30 / 800 + 255.5 = 293, 1200 x 36 / 800 + 166.5 = 220.5, and half a pixel more
    assert (back @ [*sample.joints_px[0], 1])[:2] == pytest.approx([293.5, 221.0], abs=1e-3)


def test_interhand_in_its_release_folder(trees: Trees, tmp_path: Path):
    (tmp_path / "InterHand2.6M_5fps_batch1").symlink_to(trees["interhand"])
    assert len(open_data(f"interhand:{tmp_path}?fps=5&split=train")) == 7


# --- FreiHAND --------------------------------------------------------------------------------------------------------


def test_freihand_images_share_their_labels_in_four_versions(trees: Trees):
    samples = trees.open("freihand")
    assert [samples.key(i) for i in range(16)] == [f"training/{i:08d}" for i in range(16)]
    for i in range(4):
        several = [samples[i + 4 * v] for v in range(4)]
        assert [s.extra["version"] for s in several] == ["gs", "hom", "sample", "auto"]
        assert all(np.array_equal(s.joints_mm, several[0].joints_mm) for s in several)
        middle = [s.image[60:160, 60:160].mean() for s in several]
        assert np.diff(middle) == pytest.approx([30] * 3, abs=15)  # they differ as they were written
        assert len({samples.group(i + 4 * v) for v in range(4)}) == 1
    hom = trees.open("freihand", "version=hom")
    assert [hom.key(i) for i in range(len(hom))] == [f"training/{i:08d}" for i in range(4, 8)]
    assert np.array_equal(hom[1].image, samples[5].image)


def test_freihand_by_hand(tmp_path: Path):
    scene = scenes.place(0, freihand.SIZE, (0, 0))
    freihand.write_labels(tmp_path, "evaluation", [scene])
    k = [[480.0, 0, 112.0], [0, 500.0, 110.0], [0, 0, 1]]
    scenes.write(tmp_path / "evaluation_K.json", json.dumps([k]))
    scenes.write(tmp_path / "evaluation_xyz.json", json.dumps([[[0.002 * j, -0.01, 0.5] for j in range(21)]]))
    scenes.write(tmp_path / "evaluation" / "rgb" / "00000000.jpg", scenes.jpeg(scene.image))
    samples = open_data(f"freihand:{tmp_path}", "test")
    sample = samples[0]
    assert sample.joints_mm[7] == pytest.approx([14, -10, 500])
    # 480 x 14 / 500 + 112 = 125.44; 110 - 500 x 10 / 500 = 100; half a pixel more
    assert samples.labels(0).joints_px[7] == pytest.approx([125.94, 100.5])
    assert sample.right is True


# --- HO-3D -----------------------------------------------------------------------------------------------------------


def test_ho3d_by_hand(tmp_path: Path):
    joints = np.array([[0.001 * j, -0.01, -0.5] for j in range(21)])  # OpenGL: y up, z backward
    label = {"handJoints3D": joints, "camMat": np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]])}
    scenes.write(tmp_path / "train.txt", "ABF10/0007\n")
    scenes.write(tmp_path / "train/ABF10/rgb/0007.jpg", scenes.jpeg(np.zeros((480, 640, 3), np.uint8)))
    scenes.write(tmp_path / "train/ABF10/meta/0007.pkl", ho3d.python2(label))
    samples = open_data(f"ho3d:{tmp_path}")
    sample = samples[0]
    mano = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
    assert sample.joints_mm == pytest.approx(np.array([[j, 10, 500] for j in mano], np.float32), abs=1e-4)
    # 600 x 13 / 500 + 320 = 335.6; 610 x 10 / 500 + 240 = 252.2; half a pixel more
    assert samples.labels(0).joints_px[1] == pytest.approx([336.1, 252.7])


def test_ho3d_evaluation_tells_the_root_and_the_box(trees: Trees):
    samples = trees.open("ho3d", split="test")
    assert samples.split == "evaluation"
    for i, (key, scene) in enumerate(trees.truth("ho3d")["evaluation"].items()):
        sample, box = samples[i], samples.labels(i).box
        assert (sample.key, sample.extra["index"]) == (key, i)
        assert sample.valid.tolist() == [True] + [False] * 20
        assert box == pytest.approx(np.concatenate([scene.points.min(0), scene.points.max(0)]), abs=1)
        assert not sample.joints_mm[1:].any()


def test_ho3d_frames_without_annotation(trees: Trees):
    samples = trees.open("ho3d")
    number = [samples.key(i) for i in range(len(samples))].index("BB11/0005")
    assert not samples.labels(number).valid.any()
    with pytest.raises(NoHand, match=r"BB11/rgb/0005.jpg' shows no hand"):
        samples[number]
    kept = trees.open("ho3d", "absent=keep")[number]
    assert not kept.valid.any()
    assert kept.image.shape == (224, 224, 3)


# --- Specs -----------------------------------------------------------------------------------------------------------


def test_a_spec_without_split_means_training_or_test(trees: Trees):
    for name, train, test in (
        ("dexycb", "s0/train", "s0/test"),
        ("interhand", "train", "test"),
        ("freihand", "training", "evaluation"),
        ("ho3d", "train", "evaluation"),
    ):
        assert trees.open(name).split == train
        assert trees.open(name, split="test").split == test
        assert trees.open(name, f"split={test}").split == test


def test_groups_part_no_subject(trees: Trees):
    samples = trees.open("dexycb", "split=s0/train")
    assert Counter(samples.group(i) for i in range(len(samples))) == Counter(
        samples[i].extra["subject"] for i in range(len(samples))
    )


def test_left_hands_of_shards_are_mirrored_unless_told_not_to(tmp_path: Path):
    from test_data import png, write_tar

    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    label = {"joints_mm": [[1.0, 2.0, 500.0]] * 21, "K": [[100.0, 0, 6], [0, 100, 8], [0, 0, 1]]}
    members = {}
    for key, side in (("a", "left"), ("b", "right"), ("c", None)):
        members[f"{key}.png"] = png(image)
        members[f"{key}.json"] = json.dumps(label | ({"side": side} if side else {})).encode()
    spec = f"shards:{write_tar(tmp_path / '0.tar', members)}"
    left, right, unknown = (open_data(spec)[i] for i in range(3))
    assert (left.right, left.mirrored) == (True, True)
    assert np.array_equal(left.image, image[:, ::-1])
    assert left.joints_mm[0].tolist() == [-1, 2, 500]
    assert left.intrinsics[0].tolist() == [100, 0, 10]
    for sample, side in ((right, True), (unknown, None), (open_data(f"{spec}?mirror=no")[0], False)):
        assert (sample.right, sample.mirrored) == (side, False)
        assert np.array_equal(sample.image, image)
    again = pickle.loads(pickle.dumps(open_data(spec)))
    assert again[0].mirrored
    assert len(again.starts) == 1


@pytest.mark.parametrize("name", ["dexycb", "interhand", "freihand", "ho3d"])
def test_every_command_takes_every_set(trees: Trees, tmp_path: Path, name: str):
    spec, out = f"{name}:{trees[name]}?size=64", tmp_path / "run"
    options = ("--size", 32, "--batch", 4, "--epochs", 1, "--precision", "fp32", "--device", "cpu")
    done = forked("pretrain", "--model", "test_resnet", "--data", spec, "--out", out, *options)
    assert done.code == 0, done.err
    done = forked("inspect", out, "--data", spec, "--limit", 8, "--angles", 2, "--device", "cpu")
    assert done.code == 0, done.err
    assert spec in done.out
