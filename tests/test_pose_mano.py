"""MANO with a file of its layout made here: forward kinematics against a reference, and files that are not used."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hands import write_shard
from running import assert_one_line, forked
from scipy.spatial.transform import Rotation

from ti_backbones.errors import InputError
from ti_backbones.pose import mano
from ti_backbones.pose.mano import Mano
from ti_backbones.pose.model import load_pose_model

PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
MANO_ORDER = ["wrist", *(f"{f}{k}" for f in ("index", "middle", "little", "ring", "thumb") for k in (1, 2, 3))]


def content(side: str = "right") -> dict[str, np.ndarray]:
    """Arrays of a hand-like model: a wrist, and five fingers that point to -x (a left one to +x), in metres."""
    rng = np.random.default_rng(0)
    joints = np.zeros((16, 3))
    joints[0] = [0.09, 0, 0]
    for finger in range(5):
        for k in range(3):
            joints[1 + 3 * finger + k] = [-0.03 * k, 0.005 * k, 0.02 * finger - 0.04]
    owner = rng.integers(0, 16, 778)
    vertices = joints[owner] + rng.normal(size=(778, 3)) * 0.004
    weights = np.eye(16)[owner] * 0.7 + rng.dirichlet(np.ones(16), 778) * 0.3
    regressor = (owner[None] == np.arange(16)[:, None]).astype(float)
    regressor /= regressor.sum(1, keepdims=True)
    arrays = {
        "v_template": vertices,
        "shapedirs": rng.normal(size=(778, 3, 20)) * 1e-3,
        "posedirs": rng.normal(size=(778, 3, 135)) * 1e-4,
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(16)], np.int64),
        "f": np.zeros((1538, 3), np.uint32),
    }
    if side == "left":
        arrays["v_template"] = vertices * [-1, 1, 1]
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray], protocol: int = 2) -> Path:
    """A pickle as MANO's are: a sparse regressor, and shape directions that chumpy selects from more."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}

    class Ch:
        def __init__(self, **state):
            self.__dict__.update(state)

    class Select(Ch):
        pass

    for kind, module in ((Ch, "chumpy.ch"), (Select, "chumpy.reordering")):
        kind.__module__, kind.__qualname__ = module, kind.__name__
        setattr(modules[module], kind.__name__, kind)
    stored: dict = dict(arrays)
    every = np.arange(778 * 3 * 20).reshape(778, 3, 20)[..., :10].ravel()
    whole = Ch(x=arrays["shapedirs"])
    stored["shapedirs"] = Select(a=whole, idxs=every, preferred_shape=(778, 3, 10))
    stored["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"])
    stored["posedirs"] = Ch(x=arrays["posedirs"])
    sys.modules.update(modules)
    try:
        path.write_bytes(pickle.dumps(stored, protocol))
    finally:
        for name in modules:
            del sys.modules[name]
    return path


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mano") / "MANO_RIGHT.pkl", content())


def reference(pose: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (21, 3) and vertices in mm of one hand, by chains of 4 x 4 matrices."""
    c = content()
    turns = Rotation.from_rotvec(pose.reshape(16, 3)).as_matrix()
    shaped = c["v_template"] + c["shapedirs"][..., :10] @ shape
    joints = c["J_regressor"] @ shaped
    posed = shaped + c["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
    world: list[np.ndarray] = []
    for j, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = turns[j]
        local[:3, 3] = joints[j] - (joints[parent] if j else 0)
        world.append(world[parent] @ local if j else local)
    vertices = np.zeros((778, 3))
    for v in range(778):
        for j in range(16):
            rest = np.append(posed[v] - joints[j], 1)
            vertices[v] += c["weights"][v, j] * (world[j] @ rest)[:3]
    named = {name: world[j][:3, 3] for j, name in enumerate(MANO_ORDER)}
    tips = {"thumb": 745, "index": 317, "middle": 444, "ring": 556, "little": 673}
    named |= {f"{finger}4": vertices[v] for finger, v in tips.items()}
    ours = ["wrist", *(f"{f}{k}" for f in ("thumb", "index", "middle", "ring", "little") for k in (1, 2, 3, 4))]
    return np.stack([named[name] for name in ours]) * 1000, vertices * 1000


def test_joints_and_vertices_equal_the_reference(right: Path):
    rng = np.random.default_rng(1)
    pose, shape = rng.normal(size=(4, 48)) * 0.8, rng.normal(size=(4, 10))
    pose[3] = 0
    joints, vertices = Mano(right)(torch.from_numpy(pose).float(), torch.from_numpy(shape).float())
    for i in range(4):
        expected_joints, expected_vertices = reference(pose[i], shape[i])
        np.testing.assert_allclose(joints[i].numpy(), expected_joints, atol=1e-2)
        np.testing.assert_allclose(vertices[i].numpy(), expected_vertices, atol=1e-2)


def test_the_roots_axis_angle_turns_the_whole_hand(right: Path):
    """So an in-plane rotation of the image is one of the root."""
    model, rng = Mano(right), np.random.default_rng(2)
    numbers = torch.from_numpy(rng.normal(size=(1, 58)) * 0.5).float()
    turn = Rotation.from_rotvec([0, 0, -0.7])
    turned = numbers.clone()
    turned[0, :3] = torch.from_numpy((turn * Rotation.from_rotvec(numbers[0, :3].numpy())).as_rotvec())
    joints = [model.relative_joints(n)[0].numpy() for n in (numbers, turned)]
    np.testing.assert_allclose(joints[1], joints[0] @ turn.as_matrix().T, atol=1e-2)
    assert (joints[0][0] == 0).all()


def test_gradients_reach_pose_and_shape_at_zero(right: Path):
    numbers = torch.zeros(2, 58, requires_grad=True)
    Mano(right).relative_joints(numbers).square().sum().backward()
    assert numbers.grad.isfinite().all()
    assert (numbers.grad[:, :48].abs().sum(0) > 0).any()


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_pickle_protocol_is_read(protocol: int, tmp_path: Path):
    assert Mano(write(tmp_path / "MANO_RIGHT.pkl", content(), protocol)).parents[1:] == PARENTS[1:]
    assert Mano(tmp_path).sha256 == Mano(tmp_path / "MANO_RIGHT.pkl").sha256


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_not_used(tmp_path: Path, right: Path):
    with pytest.raises(InputError, match=r"no MANO file .*mano\.is\.tue\.mpg\.de"):
        Mano(tmp_path / "MANO_RIGHT.pkl")
    with pytest.raises(InputError, match="no MANO file"):
        Mano(tmp_path)
    with pytest.raises(InputError, match="of the left hand"):
        Mano(write(tmp_path / "left.pkl", content("left")))
    for name, data in {"empty": b"", "text": b"no pickle", "cut": right.read_bytes()[:5000]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="is no MANO model"):
            Mano(tmp_path / name)
    short = content()
    short["weights"] = short["weights"][:700]
    with pytest.raises(InputError, match=r"weights is \(700, 16\)"):
        Mano(write(tmp_path / "short.pkl", short))
    marker = tmp_path / "marker"
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"v_template": Bomb(marker)}))
    with pytest.raises(InputError, match="do not trust"):
        Mano(tmp_path / "bomb.pkl")
    assert not marker.exists()


def test_a_model_that_gives_mano_parameters(right: Path, tmp_path: Path):
    """It trains, needs the same file again, and never holds any of it."""
    data = write_shard(tmp_path / "hands.tar", 24)
    small = ("--init", "random", "--size", 32, "--precision", "fp32", "--device", "cpu", "--workers", 0)
    short = ("--recipe.epochs", 2, "--recipe.min-steps", 4, "--recipe.batch", 8, "--recipe.width", 16)
    options = ("--model", "test_resnet", "--data", f"shards:{data}", *small, *short, "--output", "mano")
    out = tmp_path / "run"
    ended = forked("finetune", "--out", out, *options, "--mano", right)
    assert ended.code == 0, ended.err
    model = load_pose_model(out, right)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 21, 3)
    assert model.head.out.out_features == mano.POSE + mano.SHAPE
    assert not any("mano" in name.lower() for name in model.head.state_dict())
    assert sum(p.stat().st_size for p in out.glob("*.safetensors")) < 4e6
    test = ("--data", f"shards:{data}", "--device", "cpu", "--workers", 0)
    assert_one_line(forked("evaluate", out, *test), "--mano MANO_RIGHT.pkl")
    other = content()
    other["v_template"] = other["v_template"] * 1.01
    write(tmp_path / "other.pkl", other)
    assert_one_line(forked("evaluate", out, *test, "--mano", tmp_path / "other.pkl"), "is not the one")
    assert forked("evaluate", out, *test, "--mano", right).code == 0
    assert_one_line(forked("finetune", "--out", tmp_path / "2", *options), "--output mano needs --mano")
    missing = ("--mano", tmp_path / "nowhere.pkl")
    assert_one_line(forked("finetune", "--out", tmp_path / "2", *options, *missing), "no MANO file")
    flip = ("--mano", right, "--recipe.flip")
    assert_one_line(forked("finetune", "--out", tmp_path / "2", *options, *flip), "--recipe.flip")
    head = ("--mano", right, "--recipe.head", "equivariant")
    assert_one_line(forked("finetune", "--out", tmp_path / "2", *options, *head), "equivariant")
    assert not (tmp_path / "2").exists()
