"""Small labelled sets for tests of the pose part, written from the embedded renders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ti_backbones.data import open_data
from ti_backbones.data.labels import to_json


def write_shard(path: Path, count: int, change: Callable[[int, dict], None] = lambda i, label: None) -> Path:
    """A tar of `count` hands, whose label number i `change` may alter before it is written."""
    samples = open_data("embedded?split=test&mirror=no")
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            sample = samples[i]
            picture = io.BytesIO()
            Image.fromarray(sample.image).save(picture, "JPEG", quality=90)
            label = to_json(sample)
            change(i, label)
            for suffix, data in (("jpg", picture.getvalue()), ("json", json.dumps(label).encode())):
                member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path
