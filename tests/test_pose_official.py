"""The files for the sets' own scripts, read by those scripts' algorithms (in numpy) against the sets' own labels."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import interhand
from fixtures.trees import Trees
from test_pose_metrics import distances, official_align

from ti_backbones.data.broken import Tally
from ti_backbones.errors import InputError
from ti_backbones.pose.data import InMemory, stream
from ti_backbones.pose.official import write_official
from ti_backbones.pose.predictions import Predictions
from ti_backbones.pose.results import Results, evaluate_predictions


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory.getbasetemp())


def noisy(samples, noise_mm: float, root_only: bool = False) -> Predictions:
    """The labels of a set with noise, as a model's predictions, root-relative."""
    parts, about = [], []
    for batch, said in stream(samples, 32, 0, Tally(len(samples), samples.spec), root_only=root_only):
        parts.append({k: v for k, v in batch.items() if k != "image"})
        about += said
    hands = InMemory({k: torch.cat([p[k] for p in parts]) for k in parts[0]}, Tally(1, ""))
    joints = hands.tensors["joints"]
    rng = torch.Generator().manual_seed(0)
    joints = joints - joints[:, :1] + torch.randn(joints.shape, generator=rng) * noise_mm
    joints = joints - joints[:, :1]
    right = torch.tensor([a["right"] for a in about]) ^ hands.tensors["mirrored"]
    return Predictions(joints, hands, [a["key"] for a in about], [a["extra"] for a in about], right)


def script_numbers(targets: list[np.ndarray], predictions: list[np.ndarray]) -> tuple[float, float]:
    """Root-relative MPJPE and that after official alignment."""
    pairs = list(zip(targets, predictions, strict=True))
    relative = [distances(p - p[0], q - q[0]).mean() for q, p in pairs]
    aligned = [distances(official_align(q, p), q).mean() for q, p in pairs]
    return float(np.mean(relative)), float(np.mean(aligned))


def assert_equal(results: Results, numbers: tuple[float, float], atol: float) -> None:
    assert results.mpjpe["root"] == pytest.approx(numbers[0], abs=atol)
    assert results.mpjpe["official"] == pytest.approx(numbers[1], abs=atol)
    assert results.mpjpe["official"] > 1


@pytest.mark.parametrize("query", ["", "&mirror=no"])
def test_dexycb(trees: Trees, tmp_path: Path, query: str):
    """Lines of an index and 63 numbers in mm; every labelled frame is there, and mirrored hands are mirrored back."""
    spec = f"dexycb:{trees['dexycb']}?split=s0/train{query}"
    samples = trees.open("dexycb", f"split=s0/train{query}")
    predictions = noisy(samples, 8.0)
    path = write_official(predictions, samples, spec, tmp_path)
    found = {}
    for line in path.read_text().splitlines():
        fields = line.split(",")
        assert len(fields) == 64
        found[int(fields[0])] = np.array(fields[1:], float).reshape(21, 3)
    truth = trees.truth("dexycb")
    labels = {
        extra["index"]: truth[key].joints_mm for key, extra in zip(predictions.keys, predictions.extra, strict=True)
    }
    assert found.keys() == labels.keys()
    assert any(not truth[key].right for key in predictions.keys)
    numbers = script_numbers([labels[i] for i in labels], [found[i] for i in labels])
    assert_equal(evaluate_predictions(predictions, spec), numbers, 1e-3)


def test_freihand(trees: Trees, tmp_path: Path):
    """[joints, vertices] in metres, a row for each evaluation image."""
    spec = f"freihand:{trees['freihand']}?split=evaluation"
    samples = trees.open("freihand", "split=evaluation")
    predictions = noisy(samples, 8.0)
    path = write_official(predictions, samples, spec, tmp_path)
    joints, vertices = json.loads(path.read_text())
    labels = json.loads((trees["freihand"] / "evaluation_xyz.json").read_text())
    assert len(joints) == len(vertices) == len(labels)
    assert np.shape(vertices) == (len(labels), 778, 3)
    numbers = script_numbers([np.array(q) * 1000 for q in labels], [np.array(p) * 1000 for p in joints])
    assert_equal(evaluate_predictions(predictions, spec), numbers, 1e-3)


def test_ho3d(trees: Trees, tmp_path: Path):
    """In OpenGL axes and the set's own order of joints: against the labels as they stand in its pickles."""
    root = trees["ho3d"]
    samples = trees.open("ho3d", "split=train")
    predictions = noisy(samples, 8.0)
    path = write_official(predictions, samples, f"ho3d:{root}?split=train", tmp_path)
    joints, _ = json.loads(path.read_text())
    lines = (root / "train.txt").read_text().split()
    targets, predicted = [], []
    for line, row in zip(lines, joints, strict=True):
        sequence, number = line.split("/")
        label = pickle.loads((root / "train" / sequence / "meta" / f"{number}.pkl").read_bytes(), encoding="latin1")
        if label["handJoints3D"] is not None:
            targets.append(np.array(label["handJoints3D"]) * 1000)
            predicted.append(np.array(row) * 1000)
    assert np.allclose([p[0] for p in predicted], [q[0] for q in targets], atol=1e-3)
    results = evaluate_predictions(predictions, f"ho3d:{root}?split=train")
    assert_equal(results, script_numbers(targets, predicted), 1e-3)
    assert results.protocols["HO-3D MPJPE, scale and translation aligned"] > 1


def test_ho3d_evaluation_whose_joints_are_not_public(trees: Trees, tmp_path: Path):
    """Predictions of every image, at the given root, though nothing can be measured here."""
    root = trees["ho3d"]
    samples = trees.open("ho3d", "split=evaluation")
    predictions = noisy(samples, 8.0, root_only=True)
    path = write_official(predictions, samples, f"ho3d:{root}?split=evaluation", tmp_path)
    joints = np.array(json.loads(path.read_text())[0])
    assert len(joints) == len((root / "evaluation.txt").read_text().split())
    assert (joints[:, 0, 2] < 0).all()


def interhand_script(root: Path, split: str, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """`Dataset.evaluate` of InterHand2.6M with its default configuration."""
    folder = root / "annotations" / split
    data, cameras, joints = (
        json.loads((folder / f"InterHand2.6M_{split}_{name}.json").read_text())
        for name in ("data", "camera", "joint_3d")
    )
    images = {image["id"]: image for image in data["images"]}
    single = [a for a in data["annotations"] if a["hand_type"] != "interacting"]
    listed = single + [a for a in data["annotations"] if a["hand_type"] == "interacting"]
    errors: dict[str, list[list[float]]] = {k: [[] for _ in range(42)] for k in ("single", "interacting", "all")}
    for n, annotation in enumerate(listed):
        image = images[annotation["image_id"]]
        capture, camera, frame = (str(image[k]) for k in ("capture", "camera", "frame_idx"))
        campos, camrot, focal, princpt = (
            np.array(cameras[capture][k][camera]) for k in ("campos", "camrot", "focal", "princpt")
        )
        target = (camrot @ (np.array(joints[capture][frame]["world_coord"]) - campos).T).T
        valid = np.array(annotation["joint_valid"], float).reshape(42)
        # its script takes data.json's word alone; placeholders, which joint_3d.json tells, are no labels
        valid *= np.array(joints[capture][frame]["joint_valid"], float).reshape(42)
        valid *= (np.array(joints[capture][frame]["world_coord"]) != 1.0).any(1)
        valid[:21] *= valid[20]
        valid[21:] *= valid[41]
        p = arrays["joint_coord"][n].copy()
        p[:, 0], p[:, 1] = p[:, 0] / 64 * 256, p[:, 1] / 64 * 256
        p[:, :2] = np.column_stack([p[:, :2], np.ones(42)]) @ arrays["inv_trans"][n].T
        p[:, 2] = (p[:, 2] / 64 * 2 - 1) * (400 / 2)
        p[:21, 2] += target[20, 2]
        p[21:, 2] += target[41, 2]
        p[:, :2] = (p[:, :2] - princpt) / focal * p[:, 2:]
        for hand, wrist in ((slice(0, 21), 20), (slice(21, 42), 41)):
            p[hand] = p[hand] - p[wrist]
            target[hand] = target[hand] - target[wrist]
        for j in range(42):
            if valid[j]:
                error = np.sqrt(((p[j] - target[j]) ** 2).sum())
                kind = "interacting" if annotation["hand_type"] == "interacting" else "single"
                errors[kind][j].append(error)
                errors["all"][j].append(error)
    return {k: float(np.mean([np.mean(e) for e in v if e])) for k, v in errors.items()}


@pytest.mark.parametrize("query", ["", "&mirror=no"])
def test_interhand(trees: Trees, tmp_path: Path, query: str):
    """In memory its script takes heat-map coordinates of 42 joints, single hands first."""
    root = trees["interhand"]
    spec = f"interhand:{root}?split=train{query}"
    samples = trees.open("interhand", f"split=train{query}")
    predictions = noisy(samples, 5.0)
    path = write_official(predictions, samples, spec, tmp_path)
    arrays = dict(np.load(path))
    count = len(interhand.shots("train"))
    assert arrays["joint_coord"].shape == (count, 42, 3)
    assert arrays["hand_type"].shape == (count, 2)
    numbers = interhand_script(root, "train", arrays)
    ours = evaluate_predictions(predictions, spec).protocols
    for kind in ("single", "interacting", "all"):
        assert numbers[kind] > 1
        assert ours[f"InterHand2.6M MPJPE, {kind} hands"] == pytest.approx(numbers[kind], abs=1e-2), kind


def test_other_sets_have_no_official_file(trees: Trees, tmp_path: Path):
    samples = trees.open("freihand", "split=evaluation")
    with pytest.raises(InputError, match="dexycb, freihand, ho3d, interhand"):
        write_official(noisy(samples, 1.0), samples, "embedded", tmp_path)
