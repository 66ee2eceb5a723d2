"""Files that are either whole or not there: atomic writes, training checkpoints, run logs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import torch

from .errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, then rename over it.

    Raises:
        InputError: if it cannot be written; what stood there before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            temporary = f.name
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as e:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise cannot_write(path, e) from e


def cannot_write(path: Path, error: OSError) -> InputError:
    """The one-line error of a failed write."""
    kept = f"; '{path}' is unchanged" if path.exists() else ""
    return InputError(f"cannot write '{path}' ({error.strerror or error}){kept}: free space or give another folder")


def save(path: Path, state: dict) -> None:
    """Write a checkpoint of tensors and plain containers, atomically.

    Raises:
        InputError: if it cannot be written; the previous checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path) -> dict:
    """Read a checkpoint; tensors and plain containers only.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds for a damaged file
        reason = (str(e).splitlines() or [type(e).__name__])[0][:120]
        raise InputError(f"checkpoint '{path}' cannot be read ({reason}): remove it to start again") from e


class Log:
    """A JSONL log that a resumed run continues without gaps or doubles.

    Args:
        path: the file.
        step: lines of later steps are dropped: they will be run again.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = []
        for line in lines:
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line)
        write_atomically(path, b"".join(kept))

    def write(self, record: dict) -> None:
        """Append one record."""
        try:
            with self.path.open("a") as f:
                f.write(json.dumps(record) + "\n")
        except OSError as e:
            raise cannot_write(self.path, e) from e
