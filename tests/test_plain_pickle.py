"""Pickles are data: arrays and plain containers come through, everything else is refused and nothing runs."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from fixtures.ho3d import python2
from hypothesis import given, settings
from hypothesis import strategies as st

from ti_backbones.data import plain_pickle
from ti_backbones.errors import InputError

VALUES = {
    "none": None,
    "numbers": [1, -2.5, True, 10**30],
    "text": "SM1",
    "tuple": (1, ("a", None)),
    "floats": np.linspace(-1, 1, 21 * 3).reshape(21, 3),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "big endian": np.arange(5, dtype=">i4"),
    "bools": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "zero-dimensional": np.array(3),
    "words": np.array(["a", "bcd"]),
}


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    return path


def assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
        assert a.flags.writeable
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_plain_data_comes_through_in_every_protocol(tmp_path: Path, protocol: int, core: bytes):
    data = pickle.dumps(VALUES, protocol)
    if protocol < 4:  # later ones tell the length of a name
        data = data.replace(b"numpy._core", core)
    assert_same(plain_pickle.load(write(tmp_path, data)), VALUES)


def test_python_2_strings_are_bytes_of_latin_1(tmp_path: Path):
    values = {k: v for k, v in VALUES.items() if k != "words"}
    assert_same(plain_pickle.load(write(tmp_path, python2(values | {"ü": "ü"}))), values | {"ü": "ü"})


def test_what_occurs_twice_stays_one(tmp_path: Path):
    array, items = np.arange(3), []
    items += [array, items, array]
    got = plain_pickle.load(write(tmp_path, pickle.dumps(items)))
    assert got[1] is got
    assert np.array_equal(got[2], array)


class Calls:
    """An object whose pickle asks for a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def named(module: str, name: str, *arguments: object) -> bytes:
    """A pickle that asks for module.name(*arguments), whether there is such a thing or not."""
    return b"c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, 0)[:-1] + b"R."


def mark(tmp_path: Path) -> str:
    return str(tmp_path / "it ran")


ATTACKS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "open"),
    ("__builtin__", "eval"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy", "memmap"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy._core.multiarray", "_vec_string"),
    ("numpy.core._multiarray_umath", "_reconstruct"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.capi_maps", "getinit"),
    ("torch", "load"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("codecs", "encode"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("importlib", "import_module"),
    ("collections", "OrderedDict"),
    ("copyreg", "_reconstructor.__globals__"),
    ("ti_backbones.data.plain_pickle", "load"),
    ("numpy.ndarray", "tofile"),
]


@pytest.mark.parametrize(("module", "name"), ATTACKS)
def test_whatever_else_a_pickle_asks_for_is_refused(tmp_path: Path, module: str, name: str):
    path = write(tmp_path, named(module, name, f"touch '{mark(tmp_path)}'"))
    with pytest.raises(InputError) as caught:
        plain_pickle.load(path)
    said = str(caught.value)
    assert said.startswith(f"pickle '{path}' asks for ")
    assert said.partition("asks for ")[2].startswith((f"'{module}.{name}'", f"'{module}.{name.partition('.')[0]}'"))
    assert "\n" not in said
    assert not Path(mark(tmp_path)).exists()


def test_the_attack_is_one(tmp_path: Path):
    """The pickle refused above does run something where nobody refuses."""
    pickle.loads(named("os", "system", f"touch '{mark(tmp_path)}'"))
    assert Path(mark(tmp_path)).exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_calls_hidden_in_containers_and_arrays_are_refused(tmp_path: Path, protocol: int):
    run = Calls(eval, f"open({mark(tmp_path)!r}, 'w')")
    hidden = ([{"a": (1, run)}], {run: 1}, np.array([run, None], object), collections.OrderedDict(a=1), Path("x"))
    for value in hidden:
        with pytest.raises((InputError, ValueError), match=r"asks for|no sound pickle"):
            plain_pickle.load(write(tmp_path, pickle.dumps(value, protocol)))
    assert not Path(mark(tmp_path)).exists()


def binary(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


GLOBAL_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"
STATE = {
    "of objects": b"cnumpy\ndtype\n(" + binary("O8") + b"tR.",
    "an array with fields": b"cnumpy\ndtype\n(" + binary("V8") + b"tR.",
    "state for a name": GLOBAL_ARRAY + b"}" + binary("__doc__") + binary("changed") + b"sb.",
    "state with slots for a name": GLOBAL_ARRAY + b"N}" + binary("__new__") + b"Ns\x86b.",
    "state for a class": b"cnumpy\nndarray\n}" + binary("value") + b"Nsb.",
    "a class": b"cnumpy\nndarray\n.",
    "an extension code": b"\x82\x01.",
    "too few bytes": b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n("
    + binary("f8")
    + b"tR"
    + binary("a")
    + b"\x86R.",
    "another encoding": named("_codecs", "encode", "abc", "zlib_codec"),
    "an object of no class": named("copy_reg", "_reconstructor", 1, 2, 3),
    "nothing": b"",
    "no pickle": b"\xff\xd8\xff\xe0 a picture",
}


@pytest.mark.parametrize("what", STATE)
def test_tricks_with_what_is_admitted_fail(tmp_path: Path, what: str):
    before = dict(vars(plain_pickle._Reconstruct)), dict(vars(plain_pickle._Array))
    with pytest.raises(ValueError, match=r"no sound pickle"):
        plain_pickle.load(write(tmp_path, STATE[what]))
    assert (dict(vars(plain_pickle._Reconstruct)), dict(vars(plain_pickle._Array))) == before


def test_objects_of_the_writer_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="asks for an object of its writer's, 'weights'"):
        plain_pickle.load(write(tmp_path, b"Pweights\n."))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_pickle_fails_cleanly_or_gives_data(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int):
    data = bytearray(python2({k: v for k, v in VALUES.items() if k != "words"}))
    data[place % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    for content in (data, data[: place % len(data)]):
        path.write_bytes(content)
        with contextlib.suppress(ValueError):  # an InputError is one; nothing else may come
            plain_pickle.load(path)


class Ch:
    """Stands for a class of a package that is not there."""

    def __init__(self):
        self.x = np.arange(3.0)


@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
def test_objects_of_classes_named_by_the_caller_stay_inert(tmp_path: Path, protocol: int):
    path = write(tmp_path, pickle.dumps({"v": Ch()}, protocol))
    with pytest.raises(InputError, match=rf"asks for '{__name__}.Ch'"):
        plain_pickle.load(path)
    got = plain_pickle.load(path, inert=[f"{__name__}.Ch"])["v"]
    assert isinstance(got, plain_pickle.Inert)
    assert got.name == f"{__name__}.Ch"
    assert np.array_equal(got.state["x"], np.arange(3.0))
    called = io.BytesIO(named("evil", "Class", "rm -rf").replace(b"evil\nClass", __name__.encode() + b"\nCh"))
    got = plain_pickle.load(write(tmp_path, called.getvalue()), inert=[f"{__name__}.Ch"])
    assert got.arguments == ("rm -rf",)
