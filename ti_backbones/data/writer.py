"""Writing tar shards: whole files only, resumable, the same bytes for the same samples.

writer = ShardWriter(out, total, source)
for number in writer.missing():
    writer.write(number, (member(sample, quality=90) for sample in ... writer.indices(number)))
writer.finish()
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..checkpoint import cannot_write, replacing, write_atomically
from ..errors import InputError, first_line
from .labels import to_json
from .sample import Sample
from .shards import write_index

MANIFEST = "shards.json"
"""which samples each finished shard of a folder holds, and of what source"""


class Member(NamedTuple):
    """One sample as it goes into a shard. Attributes: its name, JPEG bytes, labels (see `labels`)."""

    key: str
    jpeg: bytes
    label: dict[str, Any]


class LeftOut(NamedTuple):
    """A sample that goes into no shard. Attributes: why, and whether that is for being broken."""

    reason: str
    broken: bool = True


def member(sample: Sample, quality: int = 90) -> Member:
    """A sample with its image encoded as JPEG; PIL's quality, 1 to 100."""
    out = io.BytesIO()
    Image.fromarray(sample.image).save(out, "JPEG", quality=quality)
    return Member(sample.key, out.getvalue(), to_json(sample))


class ShardWriter:
    """A folder of shards `NNNNNN.tar`, each with a fixed range of a source's samples.

    Args:
        out: the folder; it is made with the first shard. One that holds some of the same shards is continued.
        total: samples of the source.
        source: what decides the samples, plain JSON values; the folder must not hold shards of another source.
        per_shard: samples a shard.

    Raises:
        InputError: if the folder holds something else, or cannot be read.
    """

    def __init__(self, out: Path, total: int, source: Mapping[str, Any], per_shard: int = 1000):
        self.out, self.total, self.per_shard = out, total, per_shard
        self.source = json.loads(json.dumps(dict(source) | {"samples": total, "per_shard": per_shard}))
        self.written = self._find()

    def _find(self) -> dict[str, dict]:
        """The manifest's entries of finished shards."""
        manifest = self.out / MANIFEST
        try:
            if not self.out.exists():
                return {}
            if self.out.is_dir() and all(p.name.startswith(".") for p in self.out.iterdir()):
                return {}  # but for what a killed process may have left
            if not manifest.exists():
                holds = "other files" if self.out.is_dir() else "no shards: it is a file"
                raise InputError(f"'{self.out}' holds {holds}: give another --out")
            found = json.loads(manifest.read_bytes())
            theirs, shards = found["source"], found["shards"]
            whole = {k: v for k, v in shards.items() if _size(self.out / k) == v["bytes"]}
        except OSError as e:
            raise InputError(f"'{self.out}' cannot be read ({e.strerror}): give another --out") from e
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"'{manifest}' cannot be read ({first_line(e)}): give another --out") from e
        if theirs != self.source:
            key = next(k for k in {**self.source, **theirs} if theirs.get(k) != self.source.get(k))
            raise InputError(
                f"'{self.out}' holds shards with {key} {theirs.get(key)!r}, not {self.source.get(key)!r}:"
                " give another --out"
            )
        return whole

    def __len__(self) -> int:
        return -(-self.total // self.per_shard)

    def missing(self) -> list[int]:
        """The numbers of the shards that are yet to be written."""
        return [n for n in range(len(self)) if _name(n) not in self.written]

    def indices(self, number: int) -> range:
        """The source's samples that belong into a shard."""
        return range(number * self.per_shard, min((number + 1) * self.per_shard, self.total))

    @property
    def left_out(self) -> list[str]:
        """Why samples are in no finished shard."""
        return [reason for entry in self.written.values() for reason in entry["left_out"]]

    def write(self, number: int, members: Iterable[Member | LeftOut]) -> None:
        """Write one shard; if that fails or is interrupted, there is no such file.

        Raises:
            InputError: if it cannot be written, or two samples have the same name.
        """
        path, left_out, keys = self.out / _name(number), [], set()
        with replacing(path) as [staged]:
            try:
                with tarfile.open(staged, "w", format=tarfile.PAX_FORMAT) as tar:
                    for m in members:
                        if isinstance(m, LeftOut):
                            left_out.append(m.reason)
                            continue
                        _add(tar, m, keys)
            except OSError as e:
                raise cannot_write(path, e) from e
            entry = {"bytes": staged.stat().st_size, "samples": len(keys), "left_out": left_out}
            written = dict(sorted((self.written | {path.name: entry}).items()))
            # before the shard itself: a folder must not be found with a shard of which nobody knows the source
            manifest = json.dumps({"source": self.source, "shards": written}, indent=1)
            write_atomically(self.out / MANIFEST, manifest.encode())
        self.written = written

    def finish(self) -> None:
        """Write the index that lets the shards be opened without reading through them.

        Raises:
            InputError: if it cannot be written.
        """
        write_index([self.out / _name(n) for n in range(len(self))])


def _name(number: int) -> str:
    return f"{number:06d}.tar"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _add(tar: tarfile.TarFile, m: Member, keys: set[str]) -> None:
    head, base = os.path.split(m.key)
    name = os.path.join(head, base.replace(".", "_"))  # in webdataset's layout a suffix begins at the first dot
    if name in keys:
        raise InputError(f"two samples are named '{m.key}' or nearly so: rename one")
    keys.add(name)
    label = m.label if name == m.key else m.label | {"key": m.key}
    text = json.dumps(label, separators=(",", ":"), allow_nan=False).encode()
    for suffix, data in (("jpg", m.jpeg), ("json", text if label else b"")):
        if not data:
            continue
        info = tarfile.TarInfo(f"{name}.{suffix}")  # no time, no owner: the same samples give the same bytes
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
