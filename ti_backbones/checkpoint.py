"""Files that are either whole or not there: atomic writes, and training checkpoints."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from .errors import InputError, first_line


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Write several files so that they appear, or replace what stood there, together once all are on disk.

    Args:
        paths: the files; folders that they lack are made.

    Yields:
        as many temporary paths beside them, with the same suffixes, to be written in the body. One that
        a killed process left behind is overwritten.

    Raises:
        InputError: if a file cannot be written; what stood at `paths` before is untouched.
    """
    staged = [p.with_name(f".{p.stem}.partial{p.suffix}") for p in paths]
    current = paths[0]
    try:
        for current in paths:
            current.parent.mkdir(parents=True, exist_ok=True)
            if current.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(current))
        yield staged
        for temporary in staged:
            with temporary.open("rb+") as f:
                os.fsync(f.fileno())
        for current, temporary in zip(paths, staged, strict=True):
            os.replace(temporary, current)
    except OSError as e:
        name = Path(e.filename) if isinstance(e.filename, str) else None
        current = paths[staged.index(name)] if name in staged else current
        raise cannot_write(current, e) from e
    finally:
        for temporary in staged:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_files(folder: Path, contents: Mapping[str, bytes | memoryview]) -> None:
    """Write files (name -> contents) into a folder: all of them, or none.

    Raises:
        InputError: if one cannot be written; what stood there before is untouched.
    """
    paths = [folder / name for name in contents]
    with replacing(*paths) as staged:
        for path, temporary, data in zip(paths, staged, contents.values(), strict=True):
            try:
                temporary.write_bytes(data)
            except OSError as e:
                raise cannot_write(path, e) from e


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write beside the target, flush to disk, then rename over it.

    Raises:
        InputError: if it cannot be written; what stood there before is untouched.
    """
    write_files(path.parent, {path.name: data})


def cannot_write(path: Path, error: OSError) -> InputError:
    """The one-line error of a failed write."""
    kept = f"; '{path}' is as it was" if path.is_file() else ""
    return InputError(f"cannot write '{path}' ({error.strerror or error}){kept}: free space or give another folder")


def save(path: Path, state: dict) -> None:
    """Write a checkpoint of tensors and plain containers, atomically.

    Raises:
        InputError: if it cannot be written; the previous checkpoint is untouched.
    """
    buffer = io.BytesIO()  # torch's own writer turns a full disk into an error without a name
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path) -> dict:
    """Read a checkpoint; tensors and plain containers only.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds for a damaged file
        reason = first_line(e, 120)
        raise InputError(f"checkpoint '{path}' cannot be read ({reason}): remove it to start again") from e
    if not isinstance(state, dict):
        raise InputError(f"checkpoint '{path}' holds a {type(state).__name__}, no run: remove it to start again")
    return state
