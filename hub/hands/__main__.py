"""Render hands with exact joints.

python -m hub.hands render --num 20000 --size 128 --out hands        tar shards, resumable
python -m hub.hands sheet --num 40 --out sheet.png                   look at them
python -m hub.hands embedded                                         the package's own set, made again
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ti_backbones.errors import InputError, first_line

PROGRAM = "python -m hub.hands"
EMBEDDED = {"train": 1500, "test": 500}


def _quiet() -> None:
    """One thread a process: they would only get into each other's way."""
    import cv2

    cv2.setNumThreads(1)


def _member(split: str, size: int, seed: int):
    from ti_backbones.data.labels import to_json
    from ti_backbones.data.writer import Member

    from .scene import draw

    sample, packed = draw(split, seed, size)
    return Member(sample.key, packed, to_json(sample))


def pictures(split: str, size: int, seeds: range, processes: int) -> Iterator:
    """Members of shards for the seeds, in their order, drawn by several processes."""
    work = partial(_member, split, size)
    if processes < 2:
        _quiet()
        yield from map(work, seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes, _quiet) as pool:
        yield from pool.imap(work, seeds, chunksize=8)


def render(split: str, size: int, num: int, out: Path, processes: int, per_shard: int = 1000, first: int = 0) -> None:
    """Write `num` pictures, seeds from `first` on, as tar shards; finished shards of an earlier run are kept.

    Raises:
        InputError: if `out` holds something else or cannot be written.
    """
    from tqdm import tqdm

    from ti_backbones.data.writer import ShardWriter

    from .cast import VERSION

    source = {"renderer": VERSION, "split": split, "size": size, "first": first}
    writer = ShardWriter(out, num, source, per_shard)
    done = num - sum(len(writer.indices(n)) for n in writer.missing())
    with tqdm(total=num, initial=done, desc=f"{split} {size} px", unit="img") as bar:
        for number in writer.missing():
            indices = writer.indices(number)
            seeds = range(first + indices.start, first + indices.stop)

            def counted(seeds: range = seeds) -> Iterator:
                for member in pictures(split, size, seeds, processes):
                    bar.update()
                    yield member

            writer.write(number, counted())
    writer.finish()


def sheet(split: str, size: int, num: int, out: Path, processes: int, first: int, joints: bool) -> None:
    """One picture of many, each with its seed, pose and background.

    Raises:
        InputError: if `out` cannot be written.
    """
    from ti_backbones.data import draw
    from ti_backbones.data.images import decode
    from ti_backbones.data.labels import from_json

    tiles, captions = [], []
    for member in pictures(split, size, range(first, first + num), processes):
        label = from_json(member.label)
        tiles.append(draw.tile(decode(member.jpeg, member.key), size, label["joints_px"] if joints else None))
        captions.append(f"{label['extra']['seed']} {label['extra']['pose']}, {label['extra']['background']}")
    columns = math.ceil(math.sqrt(num * 1.5))
    try:
        draw.sheet(tiles, captions, columns).save(out)
    except (OSError, ValueError) as e:
        raise InputError(
            f"'{out}' cannot be written ({first_line(e)}): give a .png or .jpg in a folder that exists"
        ) from e


def embedded(processes: int) -> None:
    """Write the package's own set: 128 px, one tar a split."""
    import ti_backbones.data as data

    folder = Path(data.__file__).parent / "embedded"
    for split, num in EMBEDDED.items():
        staged = folder / f"{split}-shards"
        render(split, 128, num, staged, processes, per_shard=num)
        (staged / "000000.tar").replace(folder / f"{split}.tar")
        for left in staged.iterdir():
            left.unlink()
        staged.rmdir()
        print(f"{folder / f'{split}.tar'}: {(folder / f'{split}.tar').stat().st_size / 1e6:.2f} MB")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive whole number")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _parser() -> _Parser:
    common = _Parser(add_help=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    common.add_argument("--processes", type=_positive, default=cores, help="default: one a core (%(default)s)")
    some = _Parser(add_help=False)
    some.add_argument("--num", type=_positive, required=True, help="how many pictures")
    some.add_argument("--size", type=_positive, default=128, help="side in pixels, default %(default)s")
    some.add_argument("--split", choices=sorted(EMBEDDED), default="train", help="they share no person, light or photo")
    some.add_argument("--first", type=int, default=0, help="first seed, default %(default)s")
    parser = _Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("render", parents=[common, some], help="write tar shards, resumable")
    command.add_argument("--out", type=Path, required=True, help="folder of the shards")
    command.add_argument("--per-shard", type=_positive, default=1000, help="default %(default)s")
    command = commands.add_parser("sheet", parents=[common, some], help="a contact sheet")
    command.add_argument("--out", type=Path, required=True, help="a .png or .jpg")
    command.add_argument("--joints", action="store_true", help="mark the joints")
    commands.add_parser("embedded", parents=[common], help="make the package's own set again")
    return parser


def main() -> int:
    arguments = vars(_parser().parse_args())
    command = {"render": render, "sheet": sheet, "embedded": embedded}[arguments.pop("command")]
    try:
        command(**arguments)
        return 0
    except InputError as e:
        print(f"{PROGRAM}: error: {e}", file=sys.stderr)
    except ModuleNotFoundError as e:
        print(f"{PROGRAM}: error: '{e.name}' is not installed: pip install 'ti-backbones[hands]'", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
