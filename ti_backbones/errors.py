"""The error for input that cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used.

    Its message is one line that names the thing, the value and the way out; the command line prints
    it and exits with 2.
    """
