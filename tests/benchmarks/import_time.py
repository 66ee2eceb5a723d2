"""What `import ti_backbones` adds to `import timm`: median over paired runs in fresh processes.

    python tests/benchmarks/import_time.py [--pairs 15]

The two of a pair run one after the other, in turns which one first, so that a slow phase of the machine hits both.
CPU time is printed beside the time on the clock, for machines that do other things meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys

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


def paired_run(i: int) -> dict[str, tuple[float, float]]:
    """import_seconds of timm alone, and of timm and ti_backbones."""
    return {modules: import_seconds(modules) for modules in ((ALONE, BOTH) if i % 2 else (BOTH, ALONE))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    import_seconds(BOTH)  # fills the file cache
    runs = [paired_run(i) for i in range(pairs)]
    for column, label in enumerate(("clock", "CPU")):
        alone, both = (statistics.median(run[modules][column] for run in runs) for modules in (ALONE, BOTH))
        ratio = statistics.median(run[BOTH][column] / run[ALONE][column] for run in runs)
        print(
            f"{label}: import timm {alone:.2f} s, with ti_backbones {both:.2f} s;"
            f" median ratio of {pairs} pairs {ratio:.3f} ({100 * (ratio - 1):+.1f} %)"
        )


if __name__ == "__main__":
    main()
