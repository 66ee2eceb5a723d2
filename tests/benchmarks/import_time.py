"""What `import ti_backbones` adds to `import timm`, in fresh processes.

CPU time stands beside the time on the clock, for machines that do other things meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from paired import Bar, Row, Settings
from tqdm import tqdm

BAR = Bar(at_most=1.10)
ALONE, BOTH = "timm", "timm, ti_backbones"
TIMED = """
import json, time
clock, cpu = time.perf_counter(), time.process_time()
import {}
print(json.dumps([time.perf_counter() - clock, time.process_time() - cpu]))
"""


def import_seconds(modules: str) -> tuple[float, float]:
    """Seconds on the clock, and of CPU time, that importing modules takes in a process of its own."""
    command = [sys.executable, "-c", TIMED.format(modules)]
    clock, cpu = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return clock, cpu


def import_time(settings: Settings) -> Iterator[Row]:
    """The clock's ratio is asked for; that of CPU time is reported."""
    import_seconds(BOTH)  # fills the file cache
    pairs = settings.pairs if settings.quick else max(settings.pairs, 15)  # a process is short, and its time noisy
    runs = [
        {modules: import_seconds(modules) for modules in ((ALONE, BOTH) if i % 2 else (BOTH, ALONE))}
        for i in tqdm(range(pairs), desc="import", unit="pair", leave=False)
    ]
    for column, label, bar in ((0, "clock", BAR), (1, "CPU time", None)):
        both, alone = ([run[modules][column] for run in runs] for modules in (BOTH, ALONE))
        yield Row("import", f"import {BOTH}, {label}", f"import {ALONE}", "s", both, alone, bar)
