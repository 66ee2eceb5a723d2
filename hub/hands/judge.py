"""How real the renders look to someone who never saw one: the hand detector of mediapipe.

It needs an environment of its own, and nothing of this package:

    python -m venv judge && judge/bin/pip install mediapipe==0.10.14 'numpy<2'
    judge/bin/python hub/hands/judge.py SHARD.tar [SHARD.tar ...] --num 1000 --out judged.json

Found: a hand detected at the default confidence whose landmarks lie, on average, within half the joints' box of the
labels. Errors are in per cent of the longer side of the joints' box, for hands that were found: the median over all
landmarks, and the median over pictures of the mean over a picture's 21 landmarks.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

INPUT_PX = 256
"""pictures are enlarged to this, as a photo would come"""


def pictures(paths: list[Path], num: int) -> Iterator[tuple[np.ndarray, dict]]:
    """RGB images and labels of the first `num` samples."""
    count = 0
    for path in paths:
        with tarfile.open(path) as tar:
            members = {m.name: m for m in tar if m.isfile()}
            for name in sorted(members):
                if name.endswith(".jpg") and count < num:
                    picture, label = (tar.extractfile(members[name[:-3] + s]) for s in ("jpg", "json"))
                    assert picture is not None
                    assert label is not None
                    image = cv2.imdecode(np.frombuffer(picture.read(), np.uint8), cv2.IMREAD_COLOR)
                    assert image is not None
                    count += 1
                    yield image[..., ::-1], json.loads(label.read())


def projected(label: dict) -> np.ndarray:
    """(21, 2) joints in pixels."""
    points = np.array(label["joints_mm"]) @ np.array(label["K"]).T
    return points[:, :2] / points[:, 2:]


def errors(hands, labels: np.ndarray, size: int) -> np.ndarray | None:
    """(21,) errors of the nearest hand found, as shares of the joints' box; None if none is near."""
    side = np.ptp(labels, 0).max()
    found = [np.array([(p.x * size, p.y * size) for p in hand.landmark]) for hand in hands or []]
    near = [np.linalg.norm(f - labels, axis=1) / side for f in found]
    return min((e for e in near if e.mean() < 0.5), key=np.mean, default=None)


def rate(rows: list[dict]) -> dict:
    """How many were found, and how well, of some pictures."""
    found = [r["errors"] for r in rows if r["errors"] is not None]
    return {
        "pictures": len(rows),
        "found": round(len(found) / max(len(rows), 1), 4),
        "median_error": round(float(np.median(found)), 4) if found else None,
        "median_of_means": round(float(np.median(np.mean(found, 1))), 4) if found else None,
    }


def judge(paths: list[Path], num: int) -> dict:
    import mediapipe as mp  # pyright: ignore[reportMissingImports]

    detector = mp.solutions.hands.Hands(static_image_mode=True, max_num_hands=2)
    rows = []
    for image, label in pictures(paths, num):
        large = cv2.resize(image, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_CUBIC)
        result = detector.process(np.ascontiguousarray(large))
        rows.append(
            dict(label.get("extra", {}), errors=errors(result.multi_hand_landmarks, projected(label), len(image)))
        )
    free = [r for r in rows if r.get("object", "none") == "none" and not r.get("second_hand")]
    skin = sorted(free, key=lambda r: r.get("darkness", 0))
    parts = {"all": rows, "unoccluded": free}
    parts |= {"unoccluded, light half": skin[: len(skin) // 2], "unoccluded, dark half": skin[len(skin) // 2 :]}
    for kind in ("pose", "background"):
        names = sorted({str(r.get(kind)) for r in free})
        parts |= {f"unoccluded, {name}": [r for r in free if str(r.get(kind)) == name] for name in names}
    return {name: rate(part) for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = judge(arguments.shards, arguments.num)
    print(f"{'':28s} pictures   found  median error  (of means)")
    for name, r in result.items():
        percents = [
            f"{100 * r[k]:5.1f} %" if r[k] is not None else "      -"
            for k in ("found", "median_error", "median_of_means")
        ]
        print(f"{name:28s} {r['pictures']:8d} {percents[0]}       {percents[1]}     {percents[2]}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
