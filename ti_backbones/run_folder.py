"""The folder of a training run: its checkpoint, found or refused, its logs, and what is said when things go wrong."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import checkpoint
from .data.broken import Tally
from .errors import InputError
from .pretrain_config import refuse_other_run
from .runlog import Log, TensorBoard

SHOWN = 5  # broken samples on the console at a time; the log names all


class RunFolder:
    """A run's folder.

    Args:
        out: the folder. product: the file in it that says that a run has ended there.
        resume: whether to go on with a run that is there.
    """

    def __init__(self, out: Path, product: str, resume: bool):
        self.out, self.product, self.resume = out, product, resume
        self.training = out / "training"
        self.checkpoint = self.training / "checkpoint.pt"
        self.logs: list[Log | TensorBoard] = []

    def find(self, fingerprint: dict[str, Any], keys: set[str], kind: str) -> dict[str, Any] | None:
        """The checkpoint to go on from, if any.

        Args:
            fingerprint: of this run; that of the folder's must be the same.
            keys: what its checkpoint holds besides. kind: what such runs are called.

        Raises:
            InputError: if there is a run and it is not to be resumed, or it is another one.
        """
        if self.checkpoint.exists():
            if not self.resume:
                raise InputError(
                    f"'{self.out}' already holds a run: add --resume to continue it, or give another --out"
                )
            state = checkpoint.load(self.checkpoint)
            if not {"config", *keys} <= state.keys():
                raise InputError(f"checkpoint '{self.checkpoint}' is of no {kind}: give another --out")
            refuse_other_run(self.out, state["config"], fingerprint)
            return state
        if (self.out / self.product).exists():
            raise InputError(f"'{self.out}' already holds a model, and no run to resume: give another --out")
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, atomically."""
        checkpoint.save(self.checkpoint, state)

    def diverged(self, what: str, rate: str) -> InputError:
        """The error of a run that went astray; `rate` is its learning rate's option."""
        if not self.checkpoint.exists():
            return InputError(f"{what}; there is no checkpoint yet: start again with a lower {rate} or other weights")
        return InputError(
            f"{what}; the last good checkpoint is '{self.checkpoint}': go on from it with --resume and a lower {rate}"
        )

    def open_logs(self, step: int) -> None:
        """Open the JSONL log, and TensorBoard's where that is installed, of a run that goes on after a step."""
        self.logs = [Log(self.training / "log.jsonl", step)]
        with contextlib.suppress(ImportError):  # extra [train]
            self.logs.append(TensorBoard(self.training / "tensorboard", step))

    def log(self, record: dict[str, Any], broken: Tally) -> None:
        """Write a record, with what was found broken since the last one, which is shown too."""
        record = {k: round(v, 6) if isinstance(v, float) and math.isfinite(v) else v for k, v in record.items()}
        if broken.names:
            news = broken.news()
            for line in news[:SHOWN]:
                tqdm.write(f"skipped: {line}")
            if len(news) > SHOWN:
                tqdm.write(f"skipped {len(news) - SHOWN} more: see '{self.training / 'log.jsonl'}'")
            record |= {"broken": len(broken.names), "broken_names": news}
        for log in self.logs:
            log.write(record)

    def repair(self) -> str:
        """The way out of too many broken samples."""
        kept = ", then go on with --resume" if self.checkpoint.exists() else ""
        return f"all are named in '{self.training / 'log.jsonl'}': repair or remove them{kept}"
