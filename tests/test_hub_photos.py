"""Real photographs: what is unpacked is what was packed, and another package is refused in one line."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from hub.photos import SIZE, before, members, resources


def rcc(files: dict[str, tuple[bytes, bool]]) -> bytes:
    """A Qt resource file, version 2: a root and its files, each with a flag that says whether it is compressed."""
    names, contents, nodes = b"", b"", struct.pack(">IHII8x", 0, 2, len(files), 1)
    for name, (content, compressed) in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if compressed else content
        nodes += struct.pack(">IHHHI8x", len(names), int(compressed), 0, 0, len(contents))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        contents += struct.pack(">I", len(stored)) + stored
    header = 20
    offsets = header, header + len(nodes), header + len(nodes) + len(contents)
    return b"qres" + struct.pack(">4I", 2, *offsets) + nodes + contents + names


def test_resources_are_found_again():
    files = {"a.webp": (b"first" * 50, True), "b.txt": (b"second", False)}
    assert resources(rcc(files)) == {name: content for name, (content, _) in files.items()}


def test_members_of_an_archive_are_those_that_ar_packed(tmp_path: Path):
    contents = {"debian-binary": b"2.0\n", "odd.tar.xz": b"123", "even.tar.xz": b"1234"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    subprocess.run(["ar", "rc", "made.deb", *contents], cwd=tmp_path, check=True)
    assert dict(members((tmp_path / "made.deb").read_bytes())) == contents


def test_a_hand_stands_before_another_place_each_time():
    hand = Image.new("RGBA", (60, 40))
    hand.paste((200, 120, 90, 255), (10, 10, 50, 30))
    random = np.random.default_rng(0)
    one, other = (np.asarray(before(hand, random)) for _ in range(2))
    assert one.shape == (SIZE, SIZE, 3)
    assert (one[SIZE // 2, SIZE // 4] == (200, 120, 90)).all()
    assert (one[:20] != other[:20]).any()


def test_another_package_is_refused(tmp_path: Path):
    (tmp_path / "other.deb").write_bytes(b"!<arch>\n")
    for file, words in (("other.deb", "is not gcompris-qt-data"), ("none.deb", "there is no such file")):
        arguments = ["-m", "hub.photos", "--out", str(tmp_path / "out"), "--package", str(tmp_path / file)]
        root = Path(__file__).resolve().parent.parent
        ended = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert ended.stderr.startswith("photos: error: ")
        assert ended.stderr.count("\n") == 1
        assert words in ended.stderr
        assert not (tmp_path / "out").exists()
