"""Data specs: how every command names its data.

`embedded` (train by default, `embedded?split=test`), `folder:PATH` and `shards:PATH-or-pattern`.
"""

from __future__ import annotations

import glob
from importlib import resources
from pathlib import Path
from urllib.parse import parse_qsl

from ..errors import InputError
from .folder import Folder
from .shards import Shards

FORMS = "embedded, folder:PATH, shards:PATH-or-pattern"


def open_data(spec: str, split: str = "train") -> Folder | Shards:
    """Open a data spec.

    Args:
        spec: see the module.
        split: "train" or "test", for sets that know splits and a spec that names none.

    Returns:
        a sequence of `Sample`s.

    Raises:
        InputError: for an unknown form, or a set that is missing or empty.
    """
    name, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    kind, _, where = name.partition(":")
    if kind == "embedded" and not where:
        split = options.pop("split", split)
        if split not in ("train", "test"):
            raise InputError(f"data '{spec}' has no split '{split}': train or test")
        _refuse(spec, options)
        return Shards([Path(str(resources.files("ti_backbones.data") / "embedded" / f"{split}.tar"))], spec)
    if kind == "folder" and where:
        _refuse(spec, options)
        return Folder(Path(where).expanduser(), spec)
    if kind == "shards" and where:
        _refuse(spec, options)
        path = Path(where).expanduser()
        if path.is_file():  # its name may look like a pattern
            found = [path]
        else:
            found = sorted(path.glob("*.tar")) if path.is_dir() else [Path(p) for p in sorted(glob.glob(str(path)))]
        if not found:
            raise InputError(f"data '{spec}': no tar file at '{where}': give a tar, a folder of tars or a pattern")
        return Shards(found, spec)
    raise InputError(f"unknown data '{spec}': one of {FORMS}")


def _refuse(spec: str, options: dict) -> None:
    if options:
        raise InputError(f"data '{spec}' has no option '{next(iter(options))}': leave it out")
