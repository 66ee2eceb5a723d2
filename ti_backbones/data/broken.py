"""Broken samples: training skips them, counts them and names them, and stops when there are too many.

A sample that cannot be used is replaced by another one of the same set, a function of its index alone: batches keep
their shape, and a resumed run repeats what an uninterrupted one would have done, wherever each reads its images from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import Dataset, default_collate

from ..errors import BrokenSample, InputError, NoHand

if TYPE_CHECKING:
    from ..distributed import World

SHARE = 0.01
"""a run stops when more than this share of the samples that it read is broken, ..."""
FIRST = 1000
"""... where this many count as read from the start, or the whole set if it is smaller, ..."""
FEW = 2
"""... and never for so few"""
TRIES = 20
"""so many samples in a row that cannot be used are a set that cannot be used"""
STRIDE = 1_000_003  # a prime: other samples come again only after the whole set; far apart, as broken ones lie together
SHOWN = 3  # in a line


class Item(NamedTuple):
    """What stands at an index. Attributes: the value, whether it is another's, messages of what is broken."""

    value: Any
    replaced: bool
    broken: list[str]


class Skipping(Dataset):
    """A dataset in which another sample stands for each that cannot be used: `Item`s.

    Raises:
        InputError: if TRIES samples cannot be used.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        broken, first = [], ""
        for attempt in range(min(TRIES, len(self))):
            try:
                value = self.dataset[(index + attempt * STRIDE) % len(self)]
                return Item(value, attempt > 0, broken)
            except NoHand as e:  # there is nothing to repair
                first = first or str(e)
            except BrokenSample as e:
                first = first or str(e)
                broken.append(str(e))
        raise InputError(f"none of {min(TRIES, len(self))} samples can be used; the first: {first}")


def collate(items: list[Item]) -> tuple[Any, list[Item]]:
    """A batch of the values, and the items without them."""
    return default_collate([i.value for i in items]), [i._replace(value=None) for i in items]


class Tally:
    """How many samples were read, and which were broken.

    Args:
        length: samples in the set. spec: the set's name.

    Attributes:
        read: samples since the start of this process, at most all.
        broken: messages of those that were broken, each once.
        names: these and what an earlier process of the same run met.
    """

    def __init__(self, length: int, spec: str):
        self.length, self.spec = length, spec
        self.read = self._told = 0
        self.broken: set[str] = set()
        self.names: dict[str, None] = {}  # in the order of finding
        self._own_read, self._own_broken = 0, []

    def count(self, items: Iterable[Item]) -> None:
        """Count what this process read; it shows once it is shared."""
        for item in items:
            self._own_read += 1 + len(item.broken)
            self._own_broken += item.broken

    def share(self, world: World | None = None) -> None:
        """Put together what every process counted: all of them must come here, and then hold the same."""
        mine = self._own_read, self._own_broken
        self._own_read, self._own_broken = 0, []
        for read, broken in [mine] if world is None else world.gather(mine):
            self.read = min(self.read + read, self.length)
            self.broken |= set(broken)
            self.names |= dict.fromkeys(broken)

    @property
    def excessive(self) -> bool:
        """Whether too many are broken, among those shared."""
        return len(self.broken) > max(FEW, SHARE * max(self.read, min(self.length, FIRST)))

    def check(self, more: str = "") -> None:
        """Raise InputError if too many are broken, naming some; `more` says where all are named, and the way out."""
        if self.excessive:
            names = [name for name in self.names if name in self.broken]
            some = "; ".join(names[:SHOWN])
            rest = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            more = more or f"ti-backbones data check '{self.spec}' names all"
            raise InputError(
                f"{len(names)} of {self.read} samples read of '{self.spec}' are broken, more than {SHARE:.0%}:"
                f" {some}{rest}: {more}"
            )

    def news(self) -> list[str]:
        """The messages that were not asked for before."""
        told, self._told = self._told, len(self.names)
        return list(self.names)[told:]

    def state(self) -> dict[str, Any]:
        """For a checkpoint. The share of broken ones starts anew with a resumed run: they may have been repaired."""
        return {"names": list(self.names), "told": self._told}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state`."""
        self.names = dict.fromkeys(state["names"]) | self.names
        self._told = state["told"]
