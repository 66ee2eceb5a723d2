"""The error for input that cannot be used, and what checks options against their ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """What the user gave cannot be used.

    Its message is one line that names the thing, the value and the way out; the command line prints
    it and exits with 2.
    """


class BrokenSample(InputError):
    """One sample of a set cannot be used; the others may. Training skips it and counts it."""


class NoHand(BrokenSample):
    """One sample shows no hand, as its set says: nothing is broken, and it counts as nothing broken."""


Rule = tuple[str, bool, str]
"""an option's name, whether its value is in range, and the range in words"""


def check_options(options: Any, rules: Iterable[Rule], prefix: str = "--") -> None:
    """Check the fields of a configuration.

    Raises:
        InputError: naming the first option that is out of range, as the command line spells it.
    """
    for name, fine, wanted in rules:
        if not fine:
            value = getattr(options, name)
            shown = repr(value) if isinstance(value, str) else value
            raise InputError(f"{prefix}{name.replace('_', '-')} is {shown}: it must be {wanted}")


def check_choices(options: Any, prefix: str = "--") -> None:
    """Check the `Literal` fields of a configuration; see `check_options`."""
    hints = get_type_hints(type(options)).items()
    choices = {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}
    rules = ((k, getattr(options, k) in some, f"one of {', '.join(some)}") for k, some in choices.items())
    check_options(options, rules, prefix)


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message, at most `limit` characters; its type's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
