"""Image folders: every image file below a path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import BrokenSample, InputError
from .images import decode
from .names import Names
from .sample import Sample

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class Folder:
    """The images below a folder, sorted by path, without labels.

    Raises:
        InputError: if the folder is missing, no folder, or holds no image.
    """

    def __init__(self, root: Path, spec: str):
        self.spec, self.root = spec, root
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise InputError(f"data '{spec}': '{root}' {problem}: give a folder of images")
        self.files = Names(sorted(_images_below(root)))
        if not len(self.files):
            raise InputError(f"data '{spec}': no image below '{root}': it needs {', '.join(sorted(SUFFIXES))} files")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        try:
            with open(path, "rb") as f:
                data = f.read()
        except OSError as e:
            raise BrokenSample(f"image '{path}' cannot be read ({e.strerror}): repair or remove it") from e
        return Sample(os.path.relpath(path, self.root), decode(data, path))


def _images_below(root: Path) -> Iterator[str]:
    """Paths of image files; linked folders are followed, each folder once."""
    seen: set[str] = set()
    for base, folders, names in os.walk(root, followlinks=True):
        if os.path.realpath(base) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(base))
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(base, name)
