"""What a run writes down as it goes: a JSONL log, and TensorBoard events where that is installed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from importlib import import_module
from pathlib import Path

from .checkpoint import cannot_write, write_atomically


class Log:
    """A JSONL log that a resumed run continues without gaps or doubles.

    Args:
        path: the file.
        step: lines of later steps, and half-written ones, are dropped: those steps will be run again.

    Raises:
        InputError: if the file cannot be written.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        except OSError as e:
            raise cannot_write(path, e) from e
        write_atomically(path, b"".join(line for line in lines if _is_up_to(line, step)))

    def write(self, record: dict) -> None:
        """Append one record; "step" is among its keys."""
        try:
            with self.path.open("a") as f:
                f.write(json.dumps(record) + "\n")
        except OSError as e:
            raise cannot_write(self.path, e) from e


def _is_up_to(line: bytes, step: int) -> bool:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    return False


class TensorBoard:
    """TensorBoard events, written at once: no thread whose errors nobody sees.

    Args:
        folder: for the event files, one for every start of the run.
        step: a resumed run's; TensorBoard then drops what earlier starts wrote of later steps.

    Raises:
        ImportError: if TensorBoard is not installed (extra [train]).
        InputError: if the file cannot be written.
    """

    def __init__(self, folder: Path, step: int):
        events, summaries = (import_module(f"tensorboard.compat.proto.{n}_pb2") for n in ("event", "summary"))
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = events.Event, summaries.Summary, RecordWriter
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise cannot_write(folder, e) from e
        start = events.SessionLog(status=events.SessionLog.START)
        self._append(
            events.Event(wall_time=time.time(), file_version="brain.Event:2"),
            events.Event(wall_time=time.time(), step=step + 1, session_log=start),
        )

    def write(self, record: dict) -> None:
        """Add the numbers of a log's record as scalars."""
        numbers = {k: v for k, v in record.items() if k != "step" and isinstance(v, int | float)}
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in numbers.items()]
        summary = self._summary(value=values)
        self._append(self._event(wall_time=time.time(), step=record["step"], summary=summary))

    def _append(self, *what) -> None:
        try:
            with self.path.open("ab") as f:
                for event in what:
                    self._writer(f).write(event.SerializeToString())
        except OSError as e:
            raise cannot_write(self.path, e) from e
