"""Bad sets and samples: one line that names the file, what is wrong and the way out."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from fixtures import dexycb, ho3d
from fixtures.scenes import jpeg
from fixtures.trees import Trees, changed, without
from running import assert_one_line, forked
from test_plain_pickle import named

from ti_backbones.data import open_data
from ti_backbones.errors import BrokenSample, InputError, NoHand

NAMES = ("dexycb", "interhand", "freihand", "ho3d")


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory.getbasetemp())


def refusal(spec: str, kind: type[InputError] = InputError) -> str:
    """What is said of a set that cannot be opened."""
    with pytest.raises(InputError) as caught:
        open_data(spec)
    return one_line(caught.value, kind)


def broken(samples, index: int = 0) -> str:
    """What is said of a sample that cannot be read."""
    with pytest.raises(BrokenSample) as caught:
        samples[index]
    return one_line(caught.value, BrokenSample)


def one_line(error: InputError, kind: type[InputError]) -> str:
    assert type(error) is kind
    said = str(error)
    assert "\n" not in said
    assert len(said) < 500
    return said


def assert_words(line: str, *words) -> None:
    for word in words:
        assert str(word) in line, (word, line)


# --- Specs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_options_and_values_that_do_not_exist(trees: Trees, name: str):
    spec = f"{name}:{trees[name]}"
    assert_words(refusal(f"{spec}?split=s9"), "has no split 's9'", "train")
    assert_words(
        refusal(f"{spec}?splits=train"), "has no option 'splits'", "leave it out; there are absent, ", "size, split"
    )
    assert_words(refusal(f"{spec}?mirror=maybe"), "has no mirror 'maybe'", "yes or no")
    assert_words(refusal(f"{spec}?absent=1"), "has no absent '1'", "skip or keep")
    assert_words(refusal(f"{spec}?size=0"), "size is '0'", "a whole number from 8 to 4096")
    assert_words(refusal(f"{spec}?size=1e2"), "size is '1e2'", "a whole number")
    assert_words(refusal(f"{spec}?scale=nan"), "scale is 'nan'", "a number from 0.1 to 4")
    assert_words(refusal(f"{spec}?scale="), "scale is ''", "a number")


def test_options_of_single_sets(trees: Trees):
    assert_words(refusal(f"dexycb:{trees['dexycb']}?split=s0"), "no split 's0'", "s0/train, s0/val, s0/test, s1/train")
    assert_words(refusal(f"freihand:{trees['freihand']}?version=green"), "no version 'green'", "gs, hom, sample, auto")
    assert_words(refusal(f"freihand:{trees['freihand']}?split=evaluation&version=hom"), "no version 'hom'", "leave")
    assert_words(refusal(f"interhand:{trees['interhand']}?fps=12"), "has no fps '12'", "5 or 30")
    assert_words(refusal(f"ho3d:{trees['ho3d']}?version=gs"), "has no option 'version'")
    assert_words(refusal("embedded?mirror=1"), "has no mirror '1'", "yes or no")
    assert_words(refusal("embedded?size=64"), "has no option 'size'", "mirror, split")
    assert_words(refusal("folder:.?mirror=no"), "has no option 'mirror'", "leave it out")
    with pytest.raises(InputError, match="has no split 'val': train or test"):
        open_data("embedded", "val")
    assert_words(refusal("imagenet"), "unknown data 'imagenet'", "embedded, folder:PATH", "ho3d:PATH")
    assert_words(refusal("ho3d:"), "unknown data 'ho3d:'")


# --- Sets that are not there, or not whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_root_that_is_not_there_or_another(tmp_path: Path, name: str):
    assert_words(refusal(f"{name}:{tmp_path}/none"), f"'{tmp_path}/none' is missing", "give the folder")
    (tmp_path / "file").write_text("")
    assert_words(refusal(f"{name}:{tmp_path}/file"), f"'{tmp_path}/file' is not a folder")
    (tmp_path / "empty").mkdir()
    assert_words(refusal(f"{name}:{tmp_path}/empty"), f"'{tmp_path}/empty/", "is missing", "set")


def test_half_of_dexycb(trees: Trees):
    root, spec = trees["dexycb"], f"dexycb:{trees['dexycb']}"
    subject = root / dexycb.SUBJECTS[3]
    take = subject / dexycb.sequence(50)
    with without(subject):
        assert_words(refusal(spec), f"'{root}' has 9 of 10 subjects", "unpack all")
    with without(take):
        assert_words(refusal(spec), f"'{subject}' has 99 of 100 sequences", "unpack all")
    with without(take / dexycb.SERIALS[2]):
        assert_words(refusal(spec), f"'{take / dexycb.SERIALS[2]}' is missing")
        assert len(open_data(f"{spec}?split=s2/test"))  # which needs another camera only
    with without(take / "meta.yml"):
        assert_words(refusal(spec), f"'{take / 'meta.yml'}' is missing: fetch")
    with without(take / "pose.npz"):  # the labels could say who is absent, and are not there
        assert_words(refusal(spec), f"'{take / dexycb.SERIALS[0]}/labels_000000.npz' is missing")
    with without(root / "calibration"):
        assert_words(refusal(spec), "calibration/intrinsics' is missing")
    with without(root / "calibration" / "intrinsics" / f"{dexycb.SERIALS[7]}_640x480.yml"):
        assert_words(refusal(spec), "has 7 of 8 cameras")


def test_damaged_files_of_dexycb(trees: Trees):
    root, spec = trees["dexycb"], f"dexycb:{trees['dexycb']}"
    take = root / dexycb.SUBJECTS[0] / dexycb.sequence(0)
    for name, contents in (
        ("meta.yml", ["serials: [", "num_frames: 2", "num_frames: 0\nmano_sides: [right]", "mano_sides: []", "7", ""]),
        ("pose.npz", [b"", (take / "pose.npz").read_bytes()[:300], b"PK\x03\x04"]),
    ):
        for content in contents:
            with changed(take / name, content):
                assert_words(refusal(spec), f"'{take / name}'", "fetch it again")
    three = io.BytesIO()
    np.savez(three, pose_m=np.zeros((3, 1, 51)))
    with changed(take / "pose.npz", three.getvalue()):
        assert_words(refusal(spec), f"'{take / 'pose.npz'}'", "pose_m is (3, 1, 51), not (2, 1, 51)")
    path = root / "calibration" / "intrinsics" / f"{dexycb.SERIALS[0]}_640x480.yml"
    for content, word in (
        ("color: {fx: 0.0, fy: 600, ppx: 1, ppy: 2}", "fx = 0.0"),
        ("color: {fx: 600, fy: .nan, ppx: 1, ppy: 2}", "fy = nan"),
        ("color: {fx: 600}", "has no 'fy'"),
        ("depth: {}", "has no 'color'"),
    ):
        with changed(path, content):
            assert_words(refusal(spec), path, word, "fetch it again")
    with changed(path, "color: {fx: !!python/object/apply:os.system [true], fy: 1, ppx: 1, ppy: 2}"):
        assert_words(refusal(spec), path, "could not determine a constructor")


def test_half_of_interhand(trees: Trees):
    root, spec = trees["interhand"], f"interhand:{trees['interhand']}"
    for name in ("data", "camera", "joint_3d"):
        path = root / "annotations" / "train" / f"InterHand2.6M_train_{name}.json"
        with without(path):
            assert_words(refusal(spec), f"'{path}' is missing: fetch")
        for content in (path.read_bytes()[:-40], b"", b"[]", b"null", b'{"images": [], "annotations": [{}]}', b"\xff"):
            if name == "camera" and content == b"null":
                content = b'{"0": {}}'
            with changed(path, content):
                assert_words(refusal(spec), f"'{path}'", "fetch it again")
    with without(root / "images" / "train" / "Capture0"):
        assert_words(refusal(spec), "images/train/Capture0' is missing")
    assert_words(refusal(f"{spec}?fps=5"), "InterHand2.6M_5fps_batch1' is missing")


def edited(path: Path, edit) -> str:
    """A JSON file's content after an edit."""
    content = json.loads(path.read_bytes())
    edit(content)
    return json.dumps(content)


def test_interhand_files_that_do_not_fit_each_other(trees: Trees):
    root, spec = trees["interhand"], f"interhand:{trees['interhand']}"
    data, camera, joints = (
        root / "annotations" / "train" / f"InterHand2.6M_train_{name}.json" for name in ("data", "camera", "joint_3d")
    )
    with changed(joints, edited(joints, lambda c: c["0"].pop("103"))):
        assert_words(refusal(spec), joints, "has no frame 103 of capture 0", data)
    with changed(camera, edited(camera, lambda c: c["0"]["campos"].pop("410001"))):
        assert_words(refusal(spec), camera, "has no camera 410001 of capture 0", data)
    with changed(camera, edited(camera, lambda c: c["0"]["focal"].update({"400262": [0.0, 1248.0]}))):
        assert_words(refusal(spec), camera, "camera 400262 of capture 0 is [0.0, 1248.0]", "positive")
    with changed(data, edited(data, lambda c: c["annotations"].clear())):
        assert_words(refusal(spec), "no hand in split 'train'", root)
    with changed(data, edited(data, lambda c: [a.update(joint_valid=[[0]] * 42) for a in c["annotations"]])):
        assert_words(refusal(spec), "no hand in split 'train'", "skipped: 10 without a valid root")
    with changed(joints, edited(joints, lambda c: c["0"]["100"]["world_coord"][3].__setitem__(1, float("nan")))):
        assert_words(broken(open_data(spec)), joints, "image100_right: joint 1 is [", "nan", "repair it, or remove")


def test_half_of_freihand(trees: Trees):
    root, spec = trees["freihand"], f"freihand:{trees['freihand']}"
    for name in ("K", "xyz"):
        path = root / f"training_{name}.json"
        with without(path):
            assert_words(refusal(spec), f"'{path}' is missing")
        for content in (path.read_bytes()[:-5], b"", b"7", b"[[1, 2], [3]]", b"[[[1, 2]]]"):
            with changed(path, content):
                assert_words(refusal(spec), f"'{path}'", "fetch it again")
    with changed(root / "training_K.json", edited(root / "training_K.json", lambda c: c.pop())):
        assert_words(refusal(spec), "training_K.json has 3 entries, training_xyz.json 4")
    with without(root / "training" / "rgb" / "00000009.jpg"):
        assert_words(refusal(spec), "1 of 16 images are missing", "the first is 00000009.jpg", "version=")
        assert len(open_data(f"{spec}?version=gs")) == 4
    with changed(root / "training_xyz.json", b"[]"), changed(root / "training_K.json", b"[]"):
        assert_words(refusal(spec), "no hand in split 'training'")
    with without(root / "evaluation_xyz.json"):
        assert_words(refusal(f"{spec}?split=evaluation"), "evaluation_xyz.json' is missing")


def test_half_of_ho3d(trees: Trees):
    root, spec = trees["ho3d"], f"ho3d:{trees['ho3d']}"
    with without(root / "train.txt"):
        assert_words(refusal(spec), f"'{root / 'train.txt'}' is missing")
    for part in ("rgb", "meta"):
        with without(root / "train" / "BB11" / part):
            assert_words(refusal(spec), f"'{root / 'train' / 'BB11' / part}' is missing")
    with changed(root / "train.txt", "ABF10/0000\nABF10"):
        assert_words(refusal(spec), "train.txt' has a line 'ABF10'", "SEQUENCE/ID")
    with changed(root / "train.txt", b"\xff\xfe\xff"):
        assert_words(refusal(spec), "train.txt' cannot be read")
    with changed(root / "train.txt", "\n"):
        assert_words(refusal(spec), "no hand in split 'train'", root)


# --- Samples that are broken: the others are not ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_images_that_cannot_be_used(trees: Trees, name: str):
    samples = trees.open(name, "size=32")
    image = samples.labels(0).image
    whole = image.read_bytes()
    with changed(image, whole[: len(whole) // 2]):
        assert_words(broken(samples), f"image '{image}' cannot be read", "truncated")
    with changed(image, b""):
        assert_words(broken(samples), f"image '{image}' cannot be read", "no known image format")
    with changed(image, jpeg(np.zeros((48, 64, 3), np.uint8))):
        assert_words(broken(samples), f"image '{image}' is 64 x 48, its labels", " x ", "fetch it again")
    with without(image):
        if name == "freihand":
            return  # said at opening
        assert_words(broken(samples), f"'{image}' is missing: fetch")
    assert samples[0].image.shape == (32, 32, 3)


def dexycb_label(joints, points) -> bytes:
    out = io.BytesIO()
    np.savez(out, joint_3d=np.array(joints, np.float32), joint_2d=np.array(points, np.float32))
    return out.getvalue()


def test_labels_of_dexycb_that_cannot_be_used(trees: Trees):
    samples = trees.open("dexycb")
    frame = samples.labels(0)
    path, joints, points = frame.source, frame.joints_mm[None] / 1000, frame.joints_px[None]
    nan, behind = joints.copy(), joints.copy()
    nan[0, 7, 1], behind[0, 2, 2] = np.nan, -0.4
    for content, words in (
        (path.read_bytes()[:500], ["cannot be read", "fetch it again"]),
        (b"", ["cannot be read"]),
        (dexycb_label(joints[:, :20], points), ["joint_3d is (1, 20, 3)"]),
        (dexycb_label(nan, points), [frame.key, "joint 7 is [", "nan", "repair it, or remove the frame"]),
        (dexycb_label(joints, points * np.inf), ["2D joint 0 is [inf, inf]"]),
        (dexycb_label(behind, points), ["joint 2 lies behind the camera (z = -400 mm)"]),
        (dexycb_label(joints, points * 0), ["the box of the hand is [0.5, 0.5, 0.5, 0.5] px"]),
        (dexycb_label(joints, points * 1000), ["the box of the hand is [", "in an image of 640 x 480"]),
    ):
        with changed(path, content):
            assert_words(broken(samples), path, *words)
    with without(path):
        assert_words(broken(samples), f"'{path}' is missing")


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda k, xyz: xyz[0][4].__setitem__(2, float("nan")), "joint 4 is ["),
        (lambda k, xyz: xyz[0][4].__setitem__(2, -0.5), "joint 4 lies behind the camera (z = -500 mm)"),
        (lambda k, xyz: xyz[0][4].__setitem__(2, 0.0), "joint 4"),
        (lambda k, xyz: k[0][0].__setitem__(0, 0.0), "its focal lengths are 0 and"),
        (lambda k, xyz: k[0][1].__setitem__(1, -500.0), "and -500 px"),
    ],
)
def test_labels_of_freihand_that_cannot_be_used(trees: Trees, edit, word: str):
    root = trees["freihand"]
    k, xyz = (root / f"training_{name}.json" for name in ("K", "xyz"))
    contents = json.loads(k.read_bytes()), json.loads(xyz.read_bytes())
    edit(*contents)
    with changed(k, json.dumps(contents[0])), changed(xyz, json.dumps(contents[1])):
        samples = open_data(f"freihand:{root}")
    assert_words(broken(samples), xyz, "training/00000000", word, "repair it, or remove the frame")
    assert samples[1].valid.all()


def test_a_hand_beside_the_image_is_said_to_be_there(trees: Trees):
    root = trees["freihand"]
    xyz = root / "training_xyz.json"
    with changed(xyz, edited(xyz, lambda c: [joint.__setitem__(0, joint[0] + 2) for joint in c[0]])):
        samples = open_data(f"freihand:{root}")
    with pytest.raises(NoHand, match=r"its box \d+, \d+, \d+, \d+ lies outside the 224 x 224 image"):
        samples[0]


def test_labels_of_ho3d_that_cannot_be_used(trees: Trees):
    samples = trees.open("ho3d")
    path = samples.labels(0).source
    label = ho3d.label(trees.truth("ho3d")["train"][samples.key(0)])
    no_focus = label | {"camMat": np.zeros((3, 3))}
    nan = label | {"handJoints3D": np.full((21, 3), np.nan)}
    for content, words in (
        (path.read_bytes()[:200], ["cannot be read", "no sound pickle"]),
        (b"", ["cannot be read"]),
        (pickle.dumps([1, 2]), ["cannot be read"]),
        (pickle.dumps(no_focus), ["ABF10/0000: its focal lengths are 0 and 0 px"]),
        (pickle.dumps(nan), ["ABF10/0000: joint 0 is [nan, nan, nan]"]),
        (pickle.dumps(label | {"handJoints3D": np.ones((20, 3))}), ["handJoints3D has 20 joints"]),
        (pickle.dumps(label | {"handJoints3D": "all"}), ["cannot be read"]),
        (pickle.dumps(label | {"camMat": None}), ["camMat is None"]),
        (pickle.dumps(label | {"camMat": np.ones(4)}), ["cannot be read"]),
    ):
        with changed(path, content):
            assert_words(broken(samples), path, *words)
    with without(path):
        assert_words(broken(samples), f"'{path}' is missing")


def test_a_malicious_label_of_ho3d_stops_everything(trees: Trees, tmp_path: Path):
    samples, mark = trees.open("ho3d"), tmp_path / "it ran"
    path = samples.labels(0).source
    with changed(path, named("os", "system", f"touch '{mark}'")), pytest.raises(InputError) as caught:
        samples[0]
    assert_words(one_line(caught.value, InputError), f"pickle '{path}' asks for 'os.system'", "do not trust")
    assert not mark.exists()


# --- The command line ------------------------------------------------------------------------------------------------


def test_the_command_line_says_it_in_one_line(trees: Trees, tmp_path: Path):
    out = tmp_path / "run"
    options = ("--model", "test_resnet", "--size", 32, "--batch", 4, "--epochs", 1, "--device", "cpu", "--out", out)
    done = forked("pretrain", "--data", f"dexycb:{trees['dexycb']}?split=s4/train", *options)
    assert_one_line(done, "has no split 's4/train'", "s3/test")
    done = forked("pretrain", "--data", f"ho3d:{tmp_path}", *options)
    assert_one_line(done, f"'{tmp_path}/train.txt' is missing")
    path = trees.open("ho3d").labels(0).source
    mark = tmp_path / "it ran"
    with changed(path, named("builtins", "eval", f"open({str(mark)!r}, 'w')")):
        done = forked("pretrain", "--data", f"ho3d:{trees['ho3d']}", *options)
    assert_one_line(done, "asks for 'builtins.eval'")
    assert not mark.exists()
    assert not out.exists()


def test_a_broken_sample_is_skipped_and_named(trees: Trees, tmp_path: Path):
    image, out = trees.open("freihand").labels(2).image, tmp_path / "run"
    with changed(image, image.read_bytes()[:3000]):
        options = ("--model", "test_resnet", "--size", 32, "--batch", 4, "--epochs", 1, "--device", "cpu", "--out", out)
        done = forked("pretrain", "--data", f"freihand:{trees['freihand']}", *options)
    assert done.code == 0, done.err
    assert str(image) in done.out + done.err
