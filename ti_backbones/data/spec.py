"""Data specs: how every command names its data.

    embedded?split=train|test          the small rendered set that comes with the package
    folder:PATH                        every image below a folder, without labels
    shards:PATH-or-pattern             tar shards: a tar, a folder of tars, a pattern, 000000..000011 in braces
    dexycb:PATH?split=s0/train         DexYCB; s0 to s3, train, val, test
    interhand:PATH?split=train         InterHand2.6M; train, val, test; fps=5|30 if PATH holds both
    freihand:PATH?split=training       FreiHAND; training, evaluation; version=gs|hom|sample|auto
    ho3d:PATH?split=train              HO-3D v3; train, evaluation

Options follow `?` and are joined by `&`. Sets with labels take `mirror=yes|no` (yes: left hands are shown as right
hands). The four real sets also take `size=` (side of the crops, 224 px), `scale=` (the crop's side by the
hand's box, 1.2) and `absent=skip|keep` (frames that show no hand).
"""

from __future__ import annotations

import glob
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ..errors import InputError
from .dexycb import DexYCB
from .folder import Folder
from .freihand import FreiHAND
from .hand_set import CropOptions, HandSet
from .ho3d import HO3D
from .images import Samples
from .interhand import InterHand
from .sample import Sample
from .shards import Shards

HAND_SETS: dict[str, type[HandSet]] = {"dexycb": DexYCB, "interhand": InterHand, "freihand": FreiHAND, "ho3d": HO3D}
FORMS = "embedded, folder:PATH, shards:PATH-or-pattern, " + ", ".join(f"{kind}:PATH" for kind in HAND_SETS)


class RightHands:
    """A set whose left hands are shown as right hands; what is not labelled left stays as it is."""

    def __init__(self, samples: Samples):
        self.samples, self.spec = samples, samples.spec

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        return sample.mirror() if sample.right is False else sample

    def __getattr__(self, name: str) -> Any:
        if name == "samples":  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.samples, name)


def open_data(spec: str, split: str = "train") -> Samples:
    """Open a data spec.

    Args:
        spec: see the module.
        split: "train" or "test", for sets that know splits and a spec that names none.

    Returns:
        a sequence of `Sample`s.

    Raises:
        InputError: for an unknown form or option, or a set that is missing, not whole or empty.
    """
    name, _, query = spec.partition("?")
    options = _Options(spec, query)
    kind, _, where = name.partition(":")
    path = Path(where).expanduser()
    if kind == "embedded" and not where:
        split = options.one_of("split", ("train", "test"), split)
        found = [Path(str(resources.files("ti_backbones.data") / "embedded" / f"{split}.tar"))]
    elif kind == "folder" and where:
        options.done()
        return Folder(path, spec)
    elif kind == "shards" and where:
        found = _tars(spec, where, path)
    elif kind in HAND_SETS and where:
        return _open_hand_set(HAND_SETS[kind], path, spec, split, options)
    else:
        raise InputError(f"unknown data '{spec}': one of {FORMS}")
    mirror = options.one_of("mirror", ("yes", "no"), "yes") == "yes"
    options.done()
    samples = Shards(found, spec)
    return RightHands(samples) if mirror else samples


def _open_hand_set(kind: type[HandSet], path: Path, spec: str, split: str, options: _Options) -> HandSet:
    split = options.one_of("split", kind.SPLITS, kind.DEFAULT_SPLIT.get(split, split))
    crop = CropOptions(
        size=int(options.number("size", CropOptions.size, 8, 4096, whole=True)),
        scale=options.number("scale", CropOptions.scale, 0.1, 4),
        mirror=options.one_of("mirror", ("yes", "no"), "yes") == "yes",
        keep_absent=options.one_of("absent", ("skip", "keep"), "skip") == "keep",
    )
    own = {name: options.one_of(name, values, "") for name, values in kind.OPTIONS.items()}
    options.done()
    return kind(path, spec, split, crop, **own)


def _tars(spec: str, where: str, path: Path) -> list[Path]:
    if path.is_file():  # its name may look like a pattern
        return [path]
    if path.is_dir():
        found = [sorted(path.glob("*.tar"))]
    else:
        found = [[Path(p) for p in sorted(glob.glob(pattern))] for pattern in _numbered(str(path))]
    if not all(found):
        raise InputError(f"data '{spec}': no tar file at '{where}': give a tar, a folder of tars or a pattern")
    return [tar for some in found for tar in some]


def _numbered(pattern: str) -> list[str]:
    """Patterns with the numbers that a range in braces, as webdataset writes it, stands for.

    >>> _numbered("{08..10}.tar")
    ['08.tar', '09.tar', '10.tar']
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not found:
        return [pattern]
    before, after, width = pattern[: found.start()], pattern[found.end() :], len(found[1])
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [more for i in numbers for more in _numbered(f"{before}{i:0{width}d}{after}")]


class _Options:
    """The options of a spec; what is asked for is known, and what is left over is refused."""

    def __init__(self, spec: str, query: str):
        self.spec, self.given = spec, dict(parse_qsl(query, keep_blank_values=True))
        self.known: list[str] = []

    def one_of(self, name: str, values: tuple[str, ...], default: str) -> str:
        """The value of an option; a default of "" is what stands for none."""
        self.known.append(name)
        value = self.given.pop(name, default)
        if value not in values and not value == default == "":
            ways = " or ".join(values) if len(values) == 2 else f"one of {', '.join(values)}"
            raise InputError(f"data '{self.spec}' has no {name} '{value}': {ways}")
        return value

    def number(self, name: str, default: float, low: float, high: float, whole: bool = False) -> float:
        self.known.append(name)
        text = self.given.pop(name, str(default))
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise InputError(f"data '{self.spec}': {name} is '{text}': it must be {kind} from {low:g} to {high:g}")
        return value

    def done(self) -> None:
        if self.given:
            name = next(iter(self.given))
            known = f"; there are {', '.join(sorted(self.known))}" if self.known else ""
            raise InputError(f"data '{self.spec}' has no option '{name}': leave it out{known}")
