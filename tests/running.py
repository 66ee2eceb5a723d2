"""The command line in real processes: forked from the tests, which saves the imports, or started afresh."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401  (imported once here, and not in every fork)
import torch
from safetensors.torch import load_file
from tensorboard.summary.writer import record_writer  # noqa: F401

from ti_backbones import cli

BAR = re.compile(
    r"(pretraining|reading images|certifying|training latents|fitting a representation|packing|checking|drawing): "
    r"|(indexing|reading annotations): |(fine-tuning|reading hands|latents|predicting): "
)


@dataclass
class Ended:
    """Attributes: exit code (minus the signal if killed), stdout, stderr, and stderr's lines that are no bar's."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[A", "", self.err))
        return [line.strip() for line in lines if line.strip() and not BAR.match(line)]


class Forked:
    """`ti-backbones ARGUMENTS` in a child of this process; what it says goes through pipes, which no full disk stops.

    Args:
        arguments: of the command line.
        file_limit: RLIMIT_FSIZE, the largest file that it may write, bytes.
        before: called in the child first.
    """

    def __init__(self, arguments, file_limit: int = 0, before: Callable[[], None] | None = None):
        pipes = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid:
            self.ends = []
            for read, write in pipes:
                os.close(write)
                self.ends.append(_Reader(read))
            return
        code = 1
        try:  # whatever happens, the child must not go on as a second pytest
            os.setpgid(0, 0)
            for (_, write), number in zip(pipes, (1, 2), strict=True):
                os.dup2(write, number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if before is not None:
                before()
            if file_limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            code = cli.main([str(a) for a in arguments])
        except SystemExit as e:
            code = int(e.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def wait(self) -> Ended:
        """Wait for its end."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return Ended(code, *(end.text() for end in self.ends))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        os.killpg(self.pid, number)

    def ended(self) -> bool:
        """Whether it has ended, without waiting for it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class _Reader(threading.Thread):
    """Reads a pipe to its end."""

    def __init__(self, number: int):
        super().__init__(daemon=True)
        self.number, self.data = number, b""
        self.start()

    def run(self) -> None:
        with os.fdopen(self.number, "rb") as pipe:
            self.data = pipe.read()

    def text(self) -> str:
        self.join(30)  # workers that outlive their parent hold the pipe open
        return self.data.decode()


def forked(*arguments, **options) -> Ended:
    """Run `ti-backbones ARGUMENTS` in a fork to its end."""
    return Forked(arguments, **options).wait()


def command(*arguments, processes: int = 1, prelude: str = "", **environment) -> Ended:
    """Run `ti-backbones ARGUMENTS` in a fresh interpreter, or under torchrun in several.

    Args:
        prelude: Python that runs first (one process only).
    """
    start = [sys.executable, "-m", "ti_backbones.cli"]
    if prelude:
        start = [sys.executable, "-c", f"{prelude}\nimport sys\nfrom ti_backbones.cli import main\nsys.exit(main())"]
    if processes > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        start = [*torchrun, "-m", "ti_backbones.cli"]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([*start, *map(str, arguments)], env=env, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def assert_one_line(ended: Ended, *words: str) -> None:
    """Bad input ended as it should: exit code 2 and one line on stderr with these words."""
    assert ended.code == 2, ended.err
    assert len(ended.lines) == 1, ended.err
    assert ended.lines[0].startswith("ti-backbones: error: "), ended.err
    for word in words:
        assert str(word) in ended.lines[0], (word, ended.lines[0])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a saved model folder."""
    names = "model.safetensors", "latent_transformer.safetensors"
    return {f"{n}:{k}": v for n in names for k, v in load_file(folder / n).items()}
