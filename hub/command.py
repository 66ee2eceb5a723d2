"""How the commands of this folder end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ti_backbones.errors import InputError


def command(program: str, work: Callable[[], object]) -> int:
    """Do the work; gives the exit code. Bad input ends in one line and 2."""
    try:
        work()
        return 0
    except InputError as e:
        print(f"{program}: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; the same command goes on", file=sys.stderr)
        return 130
