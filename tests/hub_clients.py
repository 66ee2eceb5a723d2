"""The genuine client of the Hub in processes of its own, for tests.

`Clients` runs Python that imports `huggingface_hub` with HF_ENDPOINT set: its constants are read at import. What takes
long to import and is no part of the client is imported once, and the processes are forked from there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_server import TOKEN, HubServer

# What is imported once, before the client, the Hub's included, is imported in each fork with its own environment.
FORKS = """
import json, os, sys
import httpx2, numpy, PIL.Image, safetensors.torch, torch, torchvision, yaml, torch.fx, torch.utils.checkpoint
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        code = 1
        try:
            exec(compile(job["code"], "client", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as e:
            code = e.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Answer:
    """Attributes: exit code, stdout, stderr, and the seconds that it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def value(self) -> Any:
        """What the code printed last, as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out.splitlines()[-1])


class Clients:
    """Runs Python as a user of the Hub would, in one fresh process after the other.

    Args:
        server: the Hub. folder: the user's home: cache and files.
    """

    def __init__(self, server: HubServer, folder: Path):
        self.server, self.folder = server, folder
        # httpx2 is httpx in older clients; whatever is missing is imported later
        code = FORKS if importlib.util.find_spec("httpx2") else FORKS.replace("httpx2, ", "")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen([sys.executable, "-c", code], **pipes)

    def environment(self, token: str = TOKEN) -> dict[str, str]:
        ours = {"HF_ENDPOINT": self.server.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        ours |= {"HF_HOME": str(self.folder / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TI_BACKBONES_HUB": ""}
        return ours | {
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, code: str, token: str = TOKEN, **environment: str) -> int:
        """Start a process; gives its id."""
        job = {"code": code, "environment": self.environment(token) | environment, "folder": str(self.folder)}
        job |= {name: str(self.folder / f"std{name}") for name in ("out", "err")}
        self.began = time.monotonic()
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def wait(self) -> Answer:
        assert self.process.stdout
        code = int(self.process.stdout.readline())
        said = ((self.folder / f"std{name}").read_text() for name in ("out", "err"))
        return Answer(code, *said, time.monotonic() - self.began)

    def run(self, code: str, token: str = TOKEN, **environment: str) -> Answer:
        """Run code to its end."""
        self.start(code, token, **environment)
        return self.wait()

    def command(self, *arguments: Any, token: str = TOKEN, **environment: str) -> Answer:
        """Run `ti-backbones ARGUMENTS`."""
        return self.run(command_code(*arguments), token, **environment)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def command_code(*arguments: Any) -> str:
    """Python that runs `ti-backbones ARGUMENTS`."""
    given = [str(a) for a in arguments]
    return f"import sys\nfrom ti_backbones.cli import main\nsys.exit(main({given!r}))"
