"""Tar shards in webdataset's layout: `KEY.jpg` with an optional `KEY.json` of labels beside it (see `labels`)."""

from __future__ import annotations

import json
import os
import tarfile
from collections import OrderedDict
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..checkpoint import replacing
from ..errors import BrokenSample, InputError
from .images import decode
from .labels import fault, from_json
from .names import Names
from .sample import Sample

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
INDEX = "index.npz"
"""beside shards: where their members lie. It is not looked at for a shard of another size than when it was written."""
OPEN_FILES = 256

ROW = np.dtype(
    [
        *(("shard", "<i4"), ("suffix", "<i4")),
        *(("image", "<i8"), ("image_bytes", "<i8"), ("label", "<i8"), ("label_bytes", "<i8")),
    ]
)
"""one sample: its shard, which of IMAGE_SUFFIXES its image has, offsets and sizes in the tar; label -1: none"""


class Shards:
    """Samples of one or more tar files, by index, read without unpacking.

    Attributes:
        spec: the data spec. paths: the tar files.
        starts: the first sample's index of each tar.

    Raises:
        InputError: if a file is missing, no tar, truncated, or no image is in any.
    """

    def __init__(self, paths: list[Path], spec: str):
        self.spec, self.paths = spec, paths
        parts = _members(paths, spec)
        self.rows = np.concatenate([rows for rows, _ in parts])
        self.rows["shard"] = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
        self.keys = Names.joined([keys for _, keys in parts])
        self.starts = np.searchsorted(self.rows["shard"], np.arange(len(paths)))
        if not len(self.rows):
            raise InputError(f"data '{spec}': no image in {paths[0]}: it needs members named KEY.jpg")
        self._files: tuple[int, OrderedDict[int, int]] = (os.getpid(), OrderedDict())

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": (os.getpid(), OrderedDict())}

    def __getitem__(self, index: int) -> Sample:
        row, key = self.rows[index], self.keys[index]
        name = f"{self.paths[row['shard']]}:{key}"
        suffix = IMAGE_SUFFIXES[row["suffix"]]
        sample = Sample(key, decode(self._read(row, "image"), f"{name}.{suffix}"))
        if row["label"] >= 0:
            try:
                fields = from_json(json.loads(self._read(row, "label")))
            except ValueError as e:
                raise BrokenSample(f"label '{name}.json' cannot be read ({e}): write the shard again") from e
            for field, value in fields.items():
                setattr(sample, field, value)
            if problem := fault(sample):
                raise BrokenSample(f"label '{name}.json' cannot be used ({problem}): write the shard again")
        return sample

    def _read(self, row: np.void, what: str) -> bytes:
        path = self.paths[row["shard"]]
        try:
            return os.pread(self._open(int(row["shard"])), int(row[f"{what}_bytes"]), int(row[what]))
        except OSError as e:
            raise InputError(f"shard '{path}' cannot be read ({e.strerror}): repair or remove it") from e

    def _open(self, shard: int) -> int:
        """A descriptor of a shard; the last OPEN_FILES stay open."""
        pid, files = self._files
        if pid != os.getpid():  # a forked worker needs descriptors of its own
            self._files = pid, files = os.getpid(), OrderedDict()
        if shard not in files:
            if len(files) >= OPEN_FILES:
                os.close(files.popitem(last=False)[1])
            files[shard] = os.open(self.paths[shard], os.O_RDONLY)
            if hasattr(os, "posix_fadvise"):  # a shard is wanted whole: let it be read from end to end, now
                os.posix_fadvise(files[shard], 0, 0, os.POSIX_FADV_WILLNEED)
        files.move_to_end(shard)
        return files[shard]


def write_index(paths: list[Path]) -> None:
    """Write the index of the shards of one folder beside them, so that opening them reads nothing else.

    Raises:
        InputError: if a shard is no complete tar, or the index cannot be written.
    """
    folder = paths[0].parent
    parts = _members(paths, f"shards:{folder}")
    keys = Names.joined([keys for _, keys in parts])
    with replacing(folder / INDEX) as [staged]:
        np.savez(
            staged,
            names=np.array([p.name for p in paths]),
            sizes=np.array([p.stat().st_size for p in paths]),
            starts=np.cumsum([0, *(len(rows) for rows, _ in parts)]),
            rows=np.concatenate([rows for rows, _ in parts]),
            text=keys.text,
            ends=keys.ends,
        )


def _members(paths: list[Path], spec: str) -> list[tuple[np.ndarray, Names]]:
    """Rows and keys of each shard's samples, from the folders' indices where these hold, else from the tars."""
    parts: list[tuple[np.ndarray, Names]] = []
    with tqdm(total=len(paths), desc="opening shards", unit="tar", delay=2, leave=False) as bar:
        for folder, group in groupby(paths, key=lambda p: p.parent):
            known = _read_index(folder)
            for path in group:
                parts.append(known.get((path.name, _size(path))) or _scan(path, spec))
                bar.update()
    return parts


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _read_index(folder: Path) -> dict[tuple[str, int], tuple[np.ndarray, Names]]:
    """(name, size) of a folder's shards -> rows and keys. Empty if there is no index, or none that can be read."""
    try:
        with np.load(folder / INDEX, allow_pickle=False) as found:
            rows, starts = found["rows"].astype(ROW, casting="equiv"), found["starts"]
            keys = Names()
            keys.text, keys.ends = found["text"], found["ends"]
            names = zip(found["names"].tolist(), found["sizes"].tolist(), strict=True)
            spans = pairwise(starts)
            return {n: (rows[a:b], keys.part(a, b)) for n, (a, b) in zip(names, spans, strict=True)}
    except Exception:  # whatever is wrong with it, the tars themselves say what is in them
        return {}


def _scan(path: Path, spec: str) -> tuple[np.ndarray, Names]:
    """Rows and keys of a tar's samples, from the headers of its members."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
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
                found.setdefault(key, {})[suffix.lower()] = (m.offset_data, m.size)
            end = tar.offset
        with path.open("rb") as f:  # tarfile takes a file cut off between members, or in a header, for whole
            f.seek(end)
            if f.read(tarfile.BLOCKSIZE).count(0) != tarfile.BLOCKSIZE:
                raise tarfile.ReadError("its end is cut off")
    except (OSError, tarfile.TarError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else e
        raise InputError(f"data '{spec}': '{path}' is no complete tar file ({reason}): write or fetch it again") from e
    rows, keys = [], []
    for key, members in found.items():
        suffix = next((i for i, s in enumerate(IMAGE_SUFFIXES) if s in members), None)
        if suffix is not None:
            rows.append((0, suffix, *members[IMAGE_SUFFIXES[suffix]], *members.get("json", (-1, 0))))
            keys.append(key)
    return np.array(rows, ROW), Names(keys)
