"""Cut the embedded image set out of larger tar shards.

    python -m hub.embed SOURCE.tar COUNT OUT.tar

takes the first COUNT samples, keeps the JPEGs as they are and rounds labels to 0.01 mm.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile


def embed(source: str, count: int, out: str) -> None:
    """Write the first `count` samples of `source` to `out`."""
    with tarfile.open(source) as tar, tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as target:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            key, _, suffix = member.name.partition(".")
            if int(key) >= count:
                continue
            content = tar.extractfile(member)
            if content is None:  # a folder
                continue
            data = content.read()
            if suffix == "json":
                label = json.loads(data)
                label["joints_mm"] = [[round(v, 2) for v in joint] for joint in label["joints_mm"]]
                data = json.dumps(label, separators=(",", ":")).encode()
            info = tarfile.TarInfo(member.name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    embed(sys.argv[1], int(sys.argv[2]), sys.argv[3])
