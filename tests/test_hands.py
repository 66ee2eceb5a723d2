"""The renderer's laws: geometry, poses, light, pictures that are what their labels say, and the commands."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from hub.hands import background, capsules, cast, light, model, pose, raster, scene, skin, things
from hub.hands.__main__ import main
from ti_backbones.data import open_data
from ti_backbones.data.sample import project

ROOT = Path(__file__).parents[1]
cv2.setNumThreads(1)


def bodies(count: int, seed: int = 0):
    random = np.random.default_rng(seed)
    components = model.hand_model().components
    for _ in range(count):
        yield pose.body(np.clip(random.normal(0, 1, components), -2.2, 2.2)), random


def any_direction(random: np.random.Generator) -> np.ndarray:
    d = random.normal(size=3)
    return d / np.linalg.norm(d)


# ---- the hand


def test_the_asset_is_small_and_plain():
    assert model.ASSET.stat().st_size < 1e6
    with np.load(model.ASSET, allow_pickle=False) as data:
        assert len(data["components_mm"]) >= 15
        assert not any(data[k].dtype.hasobject for k in data.files)


def test_the_mean_hand_is_as_long_as_a_hand_and_a_right_one():
    hand = model.hand_model()
    vertices, heads = hand.shape(np.zeros(hand.components))
    crease = heads[model.WRIST, 1] + 0.07 * np.ptp([heads[model.WRIST, 1], vertices[:, 1].max()])
    assert 175 < vertices[:, 1].max() - crease < 195
    thumb, little = heads[model.FINGER], heads[model.FINGER + 12]
    assert thumb[0] > 0 > little[0]
    assert np.allclose(hand.weights.sum(1), 1, atol=1e-6)


def test_identities_differ_by_millimetres_not_centimetres():
    hand = model.hand_model()
    mean = hand.shape(np.zeros(hand.components))[0]
    for k in range(hand.components):
        away = np.linalg.norm(hand.shape(np.eye(hand.components)[k])[0] - mean, axis=1)[mean[:, 1] > 0]
        assert 0.02 < away.max() < 20


def test_loop_subdivision_is_that_of_trimesh():
    mesh = trimesh.creation.icosphere(subdivisions=1)
    matrix, faces = model.loop_subdivision(np.asarray(mesh.faces), len(mesh.vertices))
    theirs, _ = trimesh.remesh.subdivide_loop(mesh.vertices, mesh.faces, iterations=1)
    ours = matrix @ mesh.vertices
    assert len(faces) == 4 * len(mesh.faces)
    gaps = np.linalg.norm(ours[:, None] - theirs[None], axis=2).min(1)
    assert gaps.max() < 1e-9
    assert np.allclose(model.hand_model().smooth.sum(1), 1)


def test_the_skeleton_moves_as_matrices_do():
    """`chain` against products of 4 x 4 matrices along each bone's ancestors."""
    hand = model.hand_model()
    random = np.random.default_rng(3)
    _, heads = hand.shape(np.zeros(hand.components))
    local = pose.local_rotations(hand.axes, random.uniform(*pose.LIMITS.T))
    ours = model.chain(heads, local, model.PARENTS, model.ORDER)

    def world(bone: int) -> np.ndarray:
        pivot = heads[model.WRIST] if bone < model.WRIST else heads[bone]
        own = np.eye(4)
        own[:3, :3], own[:3, 3] = local[bone], pivot - local[bone] @ pivot
        return own if model.PARENTS[bone] < 0 else world(model.PARENTS[bone]) @ own

    for bone in range(len(model.BONES)):
        assert np.allclose(ours[bone], world(bone)[:3], atol=1e-9)


def test_fingers_bend_towards_the_palm():
    for of, _ in bodies(5):
        bent = pose.relaxed()
        bent[3:15] = np.radians(np.tile([60, 60, 30], 4))
        _, joints = pose.skeleton(of, bent)
        out_of_palm = np.cross(joints[5] - joints[0], joints[17] - joints[0])
        for finger in range(1, 5):
            assert (joints[4 + 4 * finger] - joints[1 + 4 * finger]) @ out_of_palm > 0


# ---- poses


def depths(of: pose.Body, joints: np.ndarray) -> float:
    """Deepest overlap of two capsules, from points along their axes rather than from `capsules.overlap`."""
    axes, radii = capsules.segments(joints), capsules.radii(of.heads)
    t = np.linspace(0, 1, 41)[:, None]
    points = axes[:, None, 0] + t * (axes[:, None, 1] - axes[:, None, 0])  # (19, 41, 3)
    worst = -np.inf
    for a in range(19):
        for b in range(a + 1, 19):
            same_finger, both_palm = a // 3 == b // 3 and b < 15, a >= 15
            base_in_palm = a < 15 <= b and a % 3 == 0
            if not (same_finger or both_palm or base_in_palm):
                gap = np.linalg.norm(points[a][:, None] - points[b][None], axis=2).min()
                worst = max(worst, radii[a] + radii[b] - gap)
    return worst


def test_no_pose_penetrates_itself_nor_leaves_its_limits():
    for of, random in bodies(150):
        _, angles = pose.sample(of, random, any_direction(random))
        assert (angles >= pose.LIMITS[:, 0] - 1e-9).all()
        assert (angles <= pose.LIMITS[:, 1] + 1e-9).all()
        assert depths(of, pose.skeleton(of, angles)[1]) <= 2


@pytest.mark.slow
def test_no_pose_of_ten_thousand_penetrates_itself():
    deepest, reached = -np.inf, {}
    for of, random in bodies(10_000, seed=1):
        family, angles = pose.sample(of, random, any_direction(random))
        depth, *_ = capsules.overlap(pose.skeleton(of, angles)[1], capsules.radii(of.heads))
        reached[family] = reached.get(family, 0) + 1
        deepest = max(deepest, depth)
    assert deepest <= 2
    assert set(reached) == set(pose.FAMILIES)
    assert all(abs(reached[f] / 10_000 - share) < 0.02 for f, share in pose.FAMILIES.items())


def test_capsule_depth_is_that_of_points_along_the_axes():
    for of, random in bodies(30, seed=2):
        angles = random.uniform(*pose.LIMITS.T)
        _, joints = pose.skeleton(of, angles)
        assert capsules.overlap(joints, capsules.radii(of.heads))[0] == pytest.approx(depths(of, joints), abs=0.25)


def test_families_look_as_they_are_called():
    straightness: dict[str, list[float]] = {}
    for of, random in bodies(400, seed=4):
        family, angles = pose.sample(of, random, any_direction(random))
        _, j = pose.skeleton(of, angles)
        span = np.mean([np.linalg.norm(j[4 + 4 * f] - j[1 + 4 * f]) for f in range(1, 5)])
        straightness.setdefault(family, []).append(span / np.linalg.norm(j[9] - j[0]))
        if family == "point":
            index, ring = (np.linalg.norm(j[4 + 4 * f] - j[1 + 4 * f]) for f in (1, 3))
            straightness.setdefault("index before ring", []).append(index > 1.2 * ring)
    assert np.mean(straightness.pop("index before ring")) > 0.6
    mean = {k: np.mean(v) for k, v in straightness.items()}
    assert mean["fist"] < mean["grasp"] < mean["open"]


def test_rotations_are_uniform():
    random = np.random.default_rng(0)
    turns = np.stack([cast.random_rotation(random) for _ in range(4000)])
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    assert np.abs(turns.mean(0)).max() < 0.04  # the Haar measure: mean 0, second moment 1/3, trace^2 has mean 1
    assert np.abs((turns**2).mean(0) - 1 / 3).max() < 0.03
    assert np.einsum("nii->n", turns).var() == pytest.approx(1, abs=0.1)


# ---- drawing


def test_rasterising_is_point_in_triangle():
    random = np.random.default_rng(0)
    size, count = 24, 30
    pixel, depth = random.uniform(-4, 28, (3 * count, 2)).astype(np.float32), random.uniform(50, 90, 3 * count)
    faces = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
    inverse, face_of = np.zeros((size, size), np.float32), np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 3), np.float32)
    raster.rasterize(pixel, depth.astype(np.float32), faces, inverse, face_of, weights)
    y, x = np.mgrid[:size, :size] + 0.5
    nearest, expected, margin = np.full((size, size), np.inf), np.full((size, size), -1), np.full((size, size), np.inf)
    for f, (a, b, c) in enumerate(pixel[faces].astype(float)):
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        area = sum(sides)
        bary = [sides[1] / area, sides[2] / area, sides[0] / area]
        z = 1 / sum(w / depth[faces[f, k]] for k, w in enumerate(bary))
        inside = np.minimum.reduce(bary) >= 0
        margin = np.minimum(margin, np.abs(np.minimum.reduce(bary)))
        closer = inside & (z < nearest)
        nearest, expected = np.where(closer, z, nearest), np.where(closer, f, expected)
    sure = margin > 1e-4
    assert (face_of[sure] == expected[sure]).all()
    drawn = sure & (expected >= 0)
    assert np.allclose(1 / inverse[drawn], nearest[drawn], rtol=1e-4)
    assert np.allclose(weights[drawn].sum(1), 1, atol=1e-4)


def test_a_ball_shades_itself_and_what_lies_behind_it():
    vertices, faces = things.ball(40.0)
    outward = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    towards = np.array([[0, 0, 1], [1, 0, 0], [0.6, 0.0, 0.8]], np.float32)
    seen = np.empty((len(vertices), 3), np.float32)
    raster.visibility(
        vertices.astype(np.float32),
        outward.astype(np.float32),
        faces.astype(np.int32),
        towards,
        128,
        np.float32(1.5),
        seen,
    )
    facing = outward @ towards.T
    assert (seen[facing > 0.25] > 0.7).all()
    assert (seen[facing < -0.25] < 0.1).all()


def test_diffuse_light_is_the_integral_over_the_panorama():
    for environment in light.environments("test"):
        height, width = 64, 128
        toward = light.directions(height, width)
        small = cv2.resize(environment.radiance, (width, height), interpolation=cv2.INTER_AREA)
        solid = np.sqrt(1 - toward[..., 1] ** 2) * (np.pi / height) * (2 * np.pi / width)
        lamp = light.Light(environment, np.eye(3), np.ones(3), np.array([0, 0, 1.0]), np.ones(3), 1.0)
        sides = np.concatenate([np.eye(3), -np.eye(3)])
        expected = (
            np.einsum(
                "hwc,nhw,hw->nc", small, np.maximum(sides @ toward.reshape(-1, 3).T, 0).reshape(6, height, width), solid
            )
            / np.pi
        )
        assert np.abs(lamp.irradiance(sides) - expected).max() < 0.08 * expected.max()  # degree 2 keeps nearly all


def test_radiance_survives_its_storage():
    values = np.exp(np.random.default_rng(0).uniform(np.log(2.0**-7), np.log(200), (50, 50, 3))).astype(np.float32)
    assert np.abs(light.decode(light.encode(values)) / values - 1).max() < 0.025


def test_skin_darkens_and_palms_stay_lighter():
    tones = np.array([skin.tone(d) for d in np.linspace(0, 1, 40)])
    assert (np.diff(tones, axis=0) < 0).all()
    assert tones[0, 0] / tones[-1, 0] > 8
    for seed in range(40):
        one = skin.sample(np.random.default_rng(seed))
        if one.darkness > 0.5:
            assert one.parameters[skin.INSIDE].mean() > one.parameters[skin.BACK].mean()


def test_noise_is_periodic_and_continuous():
    volume = skin.noise_volume()
    for x, y, z in np.random.default_rng(0).uniform(-70, 70, (50, 3)):
        here = skin.noise(volume, x, y, z)
        assert here == pytest.approx(skin.noise(volume, x + 64, y - 64, z + 128), abs=1e-3)
        assert abs(here - skin.noise(volume, x + 0.01, y, z)) < 0.05


# ---- pictures


@pytest.fixture(scope="module")
def pictures():
    return [scene.draw("train", seed, 96)[0] for seed in range(60)]


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    here = hashlib.sha256(b"".join(scene.draw("test", seed, 64)[1] for seed in (3, 11))).hexdigest()
    code = (
        "import hashlib; from hub.hands.scene import draw;"
        "print(hashlib.sha256(b''.join(draw('test', s, 64)[1] for s in (3, 11))).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
    assert scene.draw("train", 3, 64)[1] != scene.draw("test", 3, 64)[1]


def test_labels_lie_on_the_hand_they_describe(pictures):
    """Joints that nothing hides project into the mask, and the mask reaches about as far as they do."""
    shares, middles = [], []
    for s in pictures:
        assert np.allclose(project(s.joints_mm, s.intrinsics), s.joints_px, atol=1e-3)
        if s.extra["object"] != "none" or s.extra["second_hand"]:
            continue
        near = cv2.dilate(s.mask.astype(np.uint8), np.ones((3, 3)))
        inside = [near[int(y), int(x)] for x, y in s.joints_px if 0 <= x < 96 and 0 <= y < 96]
        shares.append(np.mean(inside))
        low, high = s.joints_px.min(0), s.joints_px.max(0)
        assert (low > -2).all()
        assert (high < 98).all()
        middles.append((low + high) / 2 - 48)
    assert len(shares) > 30
    assert np.mean(shares) > 0.93
    assert np.abs(np.mean(middles, 0)).max() < 4


def test_the_labelled_side_is_the_side_that_is_seen(pictures):
    """Fingers bend out of the palm: n = (index - wrist) x (little - wrist), to +n on a right hand, to -n on a left."""
    checked = 0
    for s in pictures:
        j = s.joints_mm.astype(float)
        out = np.cross(j[5] - j[0], j[17] - j[0])
        bend = sum((j[4 + 4 * f] - j[1 + 4 * f]) @ out for f in range(1, 5))
        if s.extra["pose"] in ("fist", "grasp", "point"):
            assert (bend > 0) == s.right
            checked += 1
    assert checked > 8
    sides = [s.right for s in pictures]
    assert 10 < sum(sides) < 50


def test_splits_share_no_person_no_light_and_no_photo(pictures):
    test = [scene.draw("test", seed, 32)[0] for seed in range(40)]
    for name in ("identity", "environment"):
        assert not {s.extra[name] for s in pictures} & {s.extra[name] for s in test}
    assert not set(background.PHOTOS["train"]) & set(background.PHOTOS["test"])
    every = [e.name for split in ("train", "test") for e in light.environments(split)]
    assert len(every) == len(set(every)) == len(list(light.ENVIRONMENTS.glob("*.webp"))) >= 18


def test_a_person_is_the_same_in_every_picture():
    one, again, other = cast.Person("train", 5), cast.Person("train", 5), cast.Person("test", 5)
    assert (one.identity == again.identity).all()
    assert (one.skin.parameters == again.skin.parameters).all()
    assert not np.allclose(one.identity, other.identity)


def test_pictures_are_of_a_camera_s_range(pictures):
    levels = np.array([s.image[s.mask].mean() for s in pictures if s.mask.any()])
    assert len(levels) == len(pictures)
    assert 70 < np.median(levels) < 185
    darkness = np.array([s.extra["darkness"] for s in pictures])
    assert np.corrcoef(darkness, levels)[0, 1] < 0  # exposure does not undo skin
    assert min(s.mask.mean() for s in pictures) > 0.02


def test_held_things_stay_out_of_the_hand_and_touch_it():
    held = 0
    for of, random in bodies(200, seed=7):
        family, angles = pose.sample(of, random, any_direction(random))
        _, joints = pose.skeleton(of, angles)
        axes, radii = capsules.segments(joints), capsules.radii(of.heads)
        thing = things.held(axes, radii, joints, random) if family == "grasp" else None
        if thing is None:
            continue
        held += 1
        inside = trimesh.Trimesh(*thing, process=False)
        points = (axes[:, :1] + np.linspace(0, 1, 9)[None, :, None] * (axes[:, 1:] - axes[:, :1])).reshape(-1, 3)
        gap = np.linalg.norm(inside.vertices[None] - points[:, None], axis=2).min(1) - np.repeat(radii, 9)
        assert gap.min() > -1  # a mesh lies within the solid it stands for
    assert held > 3


def test_the_other_hand_only_touches():
    random = np.random.default_rng(5)
    found = 0
    for number in range(12):
        person = cast.Person("train", number)
        arm = cast.Arm(person, any_direction(random), random)
        arm.move(cast.random_rotation(random), np.array([0, 0, 600.0]))
        other = cast.companion(arm, person, random)
        if other is not None:
            found += 1
            every = np.ones((19, 19), bool)
            assert capsules.deepest(arm.axes, arm.radii, other.axes, other.radii, every)[0] <= 2
    assert found > 6


# ---- the embedded set and the commands


def test_the_embedded_set_is_what_its_seeds_draw():
    total = 0
    for split, count in (("train", 1500), ("test", 500)):
        samples = open_data(f"embedded?split={split}&mirror=no")
        assert len(samples) == count
        total += samples.paths[0].stat().st_size
        for index in (0, count - 1):
            drawn, _ = scene.draw(split, index, 128)
            stored = samples[index]
            assert stored.image.shape == (128, 128, 3)
            difference = np.abs(stored.image.astype(int) - drawn.image.astype(int))
            assert difference.mean() < 1  # bit-identical on one platform; rounding differs between processors
            assert np.allclose(stored.joints_mm, drawn.joints_mm, atol=0.02)
            assert stored.right == drawn.right
            assert stored.extra == drawn.extra
            assert (stored.mask == drawn.mask).mean() > 0.99
    assert total < 12e6


def command(*arguments: str) -> int:
    """The exit code of the command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hub.hands", *arguments])
        try:
            return main()
        except SystemExit as e:
            return int(e.code or 0)


def test_rendering_continues_where_it_stopped_with_the_same_bytes(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("render", "--num", "12", "--size", "48", "--per-shard", "6", "--out", "out")
    assert command(*arguments, "--processes", "2") == 0
    shards = sorted((tmp_path / "out").glob("*.tar"))
    before = [s.read_bytes() for s in shards]
    shards[1].unlink()
    stamp = shards[0].stat().st_mtime_ns
    assert command(*arguments, "--processes", "1") == 0
    assert [s.read_bytes() for s in shards] == before
    assert shards[0].stat().st_mtime_ns == stamp
    assert "48 px" in capsys.readouterr().err  # a progress bar
    with tarfile.open(shards[1]) as tar:
        names = tar.getnames()
        assert names == [f"{i:08d}.{s}" for i in range(6, 12) for s in ("jpg", "json")]
        label = json.loads(tar.extractfile(names[1]).read())
    assert label["extra"]["seed"] == 6
    assert {"joints_mm", "K", "mask", "side"} <= set(label)
    assert command("render", "--num", "12", "--size", "64", "--out", "out") == 2


def test_a_sheet_is_a_picture(tmp_path: Path):
    out = str(tmp_path / "s.png")
    assert command("sheet", "--num", "6", "--size", "48", "--joints", "--out", out, "--processes", "1") == 0
    height, width, _ = cv2.imread(out).shape
    assert height > 2 * 48
    assert width >= 3 * 48


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["render", "--num", "0", "--out", "x"], "'0' is no positive whole number"),
        (["render", "--num", "5"], "--out"),
        (["render", "--num", "5", "--out", "x", "--split", "val"], "invalid choice: 'val'"),
        (["paint"], "invalid choice: 'paint'"),
        (
            ["sheet", "--num", "1", "--size", "32", "--out", "no/such/place.png"],
            "'no/such/place.png' cannot be written (",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, monkeypatch, capsys, arguments: list[str], said: str):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())
