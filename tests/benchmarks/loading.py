"""What loading delivers, against what pretraining takes: images a second at 128 px.

    python tests/benchmarks/loading.py [--size 128] [--seconds 10] [--steps 12] [--workers 1 2] [--json FILE]

The embedded set as it is, as a folder of JPEGs, and as shards that `data pack` wrote, is read in training's order
with as many worker processes as asked for, first batches left out. Beside it, what a resnet18 with the preset `o2`
takes from memory on this machine, in a short run of the real command. Say it of a machine that does nothing else:
both use all its cores.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image

from ti_backbones import cli
from ti_backbones.data import ImageSet, open_data, read
from ti_backbones.data.order import StepSampler

BATCH = 64


def command(*arguments) -> None:
    """A command of ours, silently."""
    with redirect_stdout(io.StringIO()):
        code = cli.main([str(a) for a in arguments])
    if code:
        sys.exit(code)


def write_sets(folder: Path, size: int) -> dict[str, str]:
    """The embedded images in each form, of the same size; gives their specs."""
    shards, images = f"shards:{folder}/shards", folder / "images"
    command("data", "pack", "embedded", "--out", folder / "shards", "--size", size, "--quality", 90)
    images.mkdir()
    samples = open_data(shards)
    for i in range(len(samples)):
        Image.fromarray(samples[i].image).save(images / f"{i:06d}.jpg", quality=90)
    return {"folder": f"folder:{images}", "shards": shards, "embedded": "embedded"}


def loaded_per_s(spec: str, size: int, workers: int, seconds: float) -> float:
    """Images a second that `read` gives, at least over so many seconds."""
    samples = open_data(spec)
    steps = 10**6
    sampler = StepSampler(len(samples), BATCH, steps, 0, 0, starts=getattr(samples, "starts", None))
    batches = read(ImageSet(samples, size), sampler, workers)
    for _ in range(2 * workers + 2):  # what was read ahead while the workers started
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += len(next(batches))
    return count / (time.perf_counter() - began)


def taken_per_s(folder: Path, size: int, steps: int) -> float:
    """Images a second of a pretraining from memory: the median over its steps but the first."""
    paths = sorted((folder / "images").iterdir())
    for name, some in (("train", paths[: BATCH * steps]), ("test", paths[:8])):
        (folder / name).mkdir()
        for path in some:
            (folder / name / path.name).symlink_to(path)
    data = ["--data", f"folder:{folder}/train", "--test-data", f"folder:{folder}/test", "--size", size]
    options = ["--model", "resnet18", "--batch", BATCH, "--epochs", 1, "--log-every", 1, "--pictures-every", 0]
    command("pretrain", *data, *options, "--out", folder / "run")
    lines = (folder / "run" / "training" / "log.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["images_per_s"] for line in lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of loading")
    parser.add_argument("--steps", type=int, default=12, help="of the pretraining, at most 15")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = write_sets(folder, options.size)
        rates = {
            form: {str(n): loaded_per_s(spec, options.size, n, options.seconds) for n in options.workers}
            for form, spec in specs.items()
        }
        taken = taken_per_s(folder, options.size, options.steps)
    print(f"images/s at {options.size} px; resnet18, o2, takes {taken:.0f}")
    print(f"{'':10s}" + "".join(f"{f'{n} workers':>12s}" for n in options.workers))
    for form, row in rates.items():
        print(f"{form:10s}" + "".join(f"{rate:12.0f}" for rate in row.values()))
    if options.json:
        numbers = {"size": options.size, "loaded_per_s": rates, "resnet18_o2_takes_per_s": taken}
        options.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
