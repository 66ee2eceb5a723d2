"""Many strings in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Names(Sequence[str]):
    """Many strings in two arrays: no object for each, and nothing to copy into worker processes."""

    def __init__(self, names: Iterable[str] = ()):
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.text[self.ends[index] : self.ends[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def part(self, start: int, stop: int) -> Names:
        """The names from `start` to before `stop`."""
        part = Names()
        part.text = self.text[self.ends[start] : self.ends[stop]]
        part.ends = self.ends[start : stop + 1] - self.ends[start]
        return part

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """The names of several, one after the other."""
        whole = cls()
        whole.text = np.concatenate([whole.text, *(p.text for p in parts)])
        begins = np.cumsum([0, *(len(p.text) for p in parts)])
        ends = [p.ends[1:] + begin for p, begin in zip(parts, begins, strict=False)]
        whole.ends = np.concatenate([whole.ends, *ends])
        return whole
