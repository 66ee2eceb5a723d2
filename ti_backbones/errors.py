"""The error for input that cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used.

    Its message is one line that names the thing, the value and the way out; the command line prints
    it and exits with 2.
    """


class BrokenSample(InputError):
    """One sample of a set cannot be used; the others may. Training skips it and counts it."""


class NoHand(BrokenSample):
    """One sample shows no hand, as its set says: nothing is broken, and it counts as nothing broken."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message, at most `limit` characters; its type's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
