"""`python -m hub.photos --out FOLDER`: real photographs of hands, to certify a model on.

Eight photographs of hands, open and closed, from both sides, by Bruno Coudoin and others (2000, 2008; GPL-3), as Debian
ships them in gcompris-qt-data 3.1-2 for a game about left and right. They are cut out; each is put before eight places
of the renderer's panoramas (photographs too, CC0), of those that no training render shows. Nothing of it is kept in
this repository: the package is downloaded from Debian (44 MB) and checked. Needs the extra [hands].

    python -m hub.photos --out work/photos
    ti-backbones inspect ti_efficientnet_lite0 --data folder:work/photos
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import struct
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from ti_backbones.checkpoint import write_files
from ti_backbones.errors import InputError, first_line

from .command import command
from .hands.background import environment_view
from .hands.camera import to_code
from .hands.light import sample

URL = "https://deb.debian.org/debian/pool/main/g/gcompris-qt/gcompris-qt-data_3.1-2_all.deb"
SHA256 = "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"
RESOURCES = "./usr/share/gcompris-qt/rcc/leftright.rcc"
PHOTOS = [f"{hand}_{view}_0.webp" for hand in ("main_droite", "main_gauche", "poing_droit", "poing_gauche")
          for view in ("dessus", "paume")]  # fmt: skip
PLACES = 8
SIZE = 224
WIDTH = 0.75  # of the picture that hand and forearm take, from the left edge, where the forearm is cut


def download() -> bytes:
    """The package.

    Raises:
        InputError: if it cannot be had, or is another one.
    """
    parts = []
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            total = int(answer.headers.get("content-length", 0))
            with tqdm(total=total, desc="downloading", unit="B", unit_scale=True) as bar:
                while part := answer.read(2**18):
                    parts.append(part)
                    bar.update(len(part))
    except OSError as e:
        raise InputError(f"'{URL}' cannot be had ({first_line(e)}): connect, or give the file with --package") from e
    return b"".join(parts)


def members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of an ar archive, which a Debian package is."""
    at = 8
    while at + 60 <= len(archive):
        name, size = archive[at : at + 16].decode().strip().rstrip("/"), int(archive[at + 48 : at + 58])
        yield name, archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def resources(data: bytes) -> dict[str, bytes]:
    """Name -> content of the files of a Qt resource file (rcc), uncompressed or zlib's.

    The format is that of Qt's `rcc --binary`: a header with the offsets of a tree of nodes, of data and of names.
    """
    version, tree, contents, names = struct.unpack(">4I", data[4:20])
    node = 22 if version >= 2 else 14
    found: dict[str, bytes] = {}

    def walk(index: int) -> None:
        at = tree + index * node
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                walk(child)
            return
        length = struct.unpack(">H", data[names + name_at : names + name_at + 2])[0]
        name = data[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
        start = contents + struct.unpack(">I", data[at + 10 : at + 14])[0]
        size = struct.unpack(">I", data[start : start + 4])[0]
        content = data[start + 4 : start + 4 + size]
        found[name] = zlib.decompress(content[4:]) if flags & 1 else content

    walk(0)
    return found


def photographs(package: bytes) -> dict[str, Image.Image]:
    """The cut-out hands, RGBA.

    Raises:
        InputError: for another package.
    """
    if hashlib.sha256(package).hexdigest() != SHA256:
        raise InputError(f"the package is not gcompris-qt-data 3.1-2 (its sha256 is not {SHA256[:12]}…): take {URL}")
    archive = dict(members(package))["data.tar.xz"]
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(archive))) as tar:
        file = tar.extractfile(RESOURCES)
        assert file is not None  # the hash says what is in it
        found = resources(file.read())
    return {Path(name).stem: Image.open(io.BytesIO(found[name])).convert("RGBA") for name in PHOTOS}


def before(hand: Image.Image, random: np.random.Generator) -> Image.Image:
    """A hand before a random place of a panorama that no training render shows, SIZE pixels square."""
    light = environment_view(sample("test", random), SIZE, random)
    light = light * random.uniform(0.15, 0.4) / light.mean()
    picture = Image.fromarray(np.uint8(to_code(light) * 255 + 0.5)).filter(ImageFilter.GaussianBlur(1))
    hand = hand.crop(hand.getbbox())
    width = round(WIDTH * SIZE)
    hand = hand.resize((width, round(hand.height * width / hand.width)), Image.Resampling.LANCZOS)
    picture.paste(hand, (0, (SIZE - hand.height) // 2), hand)
    return picture


def write(out: Path, package: Path | None) -> None:
    """Write the pictures.

    Raises:
        InputError: if the package cannot be had, or is another one.
    """
    if package and not package.is_file():
        raise InputError(f"--package is '{package}', and there is no such file: leave it out, or mend it")
    names = [f"{Path(photo).stem}_{i}.png" for photo in PHOTOS for i in range(PLACES)]
    if all((out / name).is_file() for name in names):
        print(f"the {len(names)} pictures are in '{out}' already")
        return
    random, pictures = np.random.default_rng(0), {}
    for name, hand in photographs(package.read_bytes() if package else download()).items():
        for i in range(PLACES):
            picture = io.BytesIO()
            before(hand, random).save(picture, "PNG")
            pictures[f"{name}_{i}.png"] = picture.getvalue()
    write_files(out, pictures)
    print(f"wrote {len(pictures)} pictures to '{out}'")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hub.photos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--package", type=Path, help="gcompris-qt-data_3.1-2_all.deb, if it is here already")
    arguments = parser.parse_args()
    return command("photos", lambda: write(arguments.out, arguments.package))


if __name__ == "__main__":
    sys.exit(main())
