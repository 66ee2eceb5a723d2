"""Pickles read as data: numbers, strings, plain containers and numpy arrays of numbers, nothing else.

A pickle names what it wants called. Here every name is looked up in a short table of stand-ins, so that no
function of any library runs, numpy's own included: arrays are put together from their bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

KINDS = "biufcSU"
"""dtype kinds of plain arrays; an array of objects, or with fields, is none"""


class Inert:
    """An object of a class that is not looked up: what its pickle says about it, and nothing done with it.

    Attributes:
        name: the class, "module.Class".
        arguments: what it would have been made from.
        state: what it would have been set to, None if nothing.
    """

    name = ""

    arguments: tuple
    state: Any

    def __new__(cls, *arguments: Any):  # pickles may leave __init__ out
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load(path: Path, inert: Collection[str] = ()) -> Any:
    """Read a pickle of any protocol, Python 2's included.

    Args:
        path: the file.
        inert: classes ("module.Class") whose objects may occur; they come as `Inert`.

    Raises:
        InputError: naming what the pickle asks for, if that is no plain data.
        OSError, ValueError: if the file cannot be read or is no pickle.
    """
    with path.open("rb") as f:
        try:
            return _plain(_Unpickler(f, path, inert).load(), {})
        except (InputError, OSError):
            raise
        except Exception as e:  # a damaged pickle may fail in any way
            raise ValueError(f"no sound pickle: {e or type(e).__name__}") from e


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, inert: Collection[str]):
        super().__init__(file, encoding="latin1")  # how Python 2's strings, raw bytes among them, come through
        self.path, self.inert = path, inert

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked in self.inert:
            return type("Inert", (Inert,), {"name": asked})
        if asked not in STAND_INS:
            raise InputError(
                f"pickle '{self.path}' asks for '{asked}', which is neither a numpy array nor a plain container:"
                " do not trust this file, fetch it from its makers"
            )
        return STAND_INS[asked]

    def persistent_load(self, pid: Any) -> Any:
        raise InputError(f"pickle '{self.path}' asks for an object of its writer's, {pid!r}: it is no plain data")


class _Dtype:
    """Stands in for numpy.dtype: made from its code, then told its byte order."""

    def __init__(self, code: str, *_: Any):
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in KINDS:
            raise ValueError(f"an array of dtype '{code}'")

    def __setstate__(self, state: tuple) -> None:
        _, order, *fields = state[:5]
        if any(f is not None for f in fields):
            raise ValueError("an array with fields")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for numpy.ndarray: made empty, then told shape, dtype and bytes."""

    def __init__(self, *_: Any):
        self.value = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    """An array of its own memory from raw bytes (a string of them where Python 2 wrote the pickle)."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


# What a pickle may name are classes whose __new__ gives the result, and not functions: a pickle can also set
# attributes of what it has named, and a class with a __setstate__ does not let it.


class _Named:
    def __setstate__(self, state: Any) -> None:
        raise ValueError("state for what has none")


class _Reconstruct(_Named):
    def __new__(cls, *_: Any) -> Any:
        return _Array()


class _FromBuffer(_Named):
    def __new__(cls, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Any:
        return _from_bytes(data, dtype, shape, order)


class _Scalar(_Named):
    def __new__(cls, dtype: _Dtype, data: bytes | str) -> Any:
        return _from_bytes(data, dtype, ())[()]


class _Encode(_Named):
    """How Python 3 writes bytes for Python 2."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise ValueError(f"bytes encoded as '{encoding}'")
        return text.encode("latin1")


class _NoBytes(_Named):
    """How Python 3 writes no bytes for Python 2."""

    def __new__(cls) -> Any:
        return b""


class _Object(_Named):
    """Stands in for `object`, which old pickles name as the base of a class."""


class _OldObject(_Named):
    """How old pickles make an object of a class: only of one that is inert."""

    def __new__(cls, kind: Any, *_: Any) -> Any:
        if not (isinstance(kind, type) and issubclass(kind, Inert)):
            raise ValueError("an object of no class")
        return kind()


STAND_INS: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _Encode,
    "__builtin__.bytes": _NoBytes,
    "copy_reg._reconstructor": _OldObject,
    "copyreg._reconstructor": _OldObject,
    "__builtin__.object": _Object,
    "builtins.object": _Object,
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[f"{_core}.multiarray._reconstruct"] = _Reconstruct
    STAND_INS[f"{_core}.multiarray.scalar"] = _Scalar
    STAND_INS[f"{_core}.numeric._frombuffer"] = _FromBuffer


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """The value with arrays in place of their stand-ins, containers copied; what occurs twice stays one."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        out: Any = seen.setdefault(id(value), {})
        out.update((_plain(k, seen), _plain(v, seen)) for k, v in value.items())
        return out
    if isinstance(value, list):
        out = seen.setdefault(id(value), [])
        out.extend(_plain(v, seen) for v in value)
        return out
    if isinstance(value, (tuple, set, frozenset)):
        return type(value)(_plain(v, seen) for v in value)
    if isinstance(value, Inert):
        seen[id(value)] = value
        value.arguments, value.state = _plain(value.arguments, seen), _plain(value.state, seen)
        return value
    if isinstance(value, (type, _Dtype, _Named)):
        raise ValueError("a class or a dtype where data should be")
    return value
