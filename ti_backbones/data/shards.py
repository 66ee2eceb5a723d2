"""Tar shards in webdataset's layout: `KEY.jpg` with an optional `KEY.json` of labels beside it."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError
from .images import decode
from .sample import Sample

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass
class _Entry:
    """Where the members of one sample lie: suffix -> (offset, size) in the tar file."""

    shard: int
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class Shards:
    """Samples of one or more tar files, by index, read without unpacking.

    Raises:
        InputError: if a file is missing, no tar, truncated, or no image is in any.
    """

    def __init__(self, paths: list[Path], spec: str):
        self.spec, self.paths = spec, paths
        self.entries: list[_Entry] = []
        for number, path in enumerate(paths):
            self.entries += self._index(number, path)
        if not self.entries:
            raise InputError(f"data '{spec}': no image in {paths[0]}: it needs members named KEY.jpg")
        self._files: dict[tuple[int, int], int] = {}

    def _index(self, number: int, path: Path) -> list[_Entry]:
        found: dict[str, _Entry] = {}
        try:
            size = path.stat().st_size
            with tarfile.open(path, "r:") as tar:
                for m in tar:
                    if not m.isfile():
                        continue
                    if m.offset_data + m.size > size:
                        raise tarfile.ReadError(f"member {m.name} is cut off")
                    head, base = os.path.split(m.name)
                    key, _, suffix = base.partition(".")
                    key = f"{head}/{key}" if head else key
                    entry = found.setdefault(key, _Entry(number, key))
                    entry.members[suffix.lower()] = (m.offset_data, m.size)
                end = tar.offset
            with path.open("rb") as f:  # tarfile takes a file cut off between members, or in a header, for whole
                f.seek(end)
                if f.read(tarfile.BLOCKSIZE).count(0) != tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("its end is cut off")
        except (OSError, tarfile.TarError) as e:
            reason = e.strerror if isinstance(e, OSError) and e.strerror else e
            raise InputError(
                f"data '{self.spec}': '{path}' is no complete tar file ({reason}): write or fetch it again"
            ) from e
        return [e for e in found.values() if any(s in e.members for s in IMAGE_SUFFIXES)]

    def __len__(self) -> int:
        return len(self.entries)

    def _read(self, entry: _Entry, suffix: str) -> bytes:
        slot, path = (os.getpid(), entry.shard), self.paths[entry.shard]
        offset, size = entry.members[suffix]
        try:
            if slot not in self._files:  # a forked worker needs a descriptor of its own
                self._files[slot] = os.open(path, os.O_RDONLY)
            return os.pread(self._files[slot], size, offset)
        except OSError as e:
            raise InputError(f"shard '{path}' cannot be read ({e.strerror}): repair or remove it") from e

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}}

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        name = f"{self.paths[entry.shard]}:{entry.key}"
        suffix = next(s for s in IMAGE_SUFFIXES if s in entry.members)
        sample = Sample(entry.key, decode(self._read(entry, suffix), f"{name}.{suffix}"))
        if "json" in entry.members:
            try:
                label = json.loads(self._read(entry, "json"))
                if "joints_mm" in label:
                    sample.joints_mm = np.asarray(label["joints_mm"], np.float32)
                if "K" in label:
                    sample.intrinsics = np.asarray(label["K"], np.float32)
                if "side" in label:
                    sample.right = label["side"] == "right"
            except (ValueError, TypeError) as e:
                raise InputError(f"label '{name}.json' cannot be read ({e}): write the shard again") from e
        return sample
