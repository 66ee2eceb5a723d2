"""Masks as COCO's compressed run lengths, the format of pycocotools (`maskApi.c`)."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        {"size": [H, W], "counts": text}: lengths of the runs of 0, 1, 0, ... down the columns, each less the
        one before the last, as signed numbers of 5 bits a character.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)  # the first run is of zeros
    return {"size": list(mask.shape), "counts": _compress(runs)}


def decode(coded: dict[str, Any]) -> np.ndarray:
    """The mask (H, W) bool of its run lengths.

    Raises:
        ValueError: if they do not fill the mask.
    """
    (height, width), runs = coded["size"], _expand(coded["counts"])
    if min(height, width, *runs, 0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its mask's runs do not fill {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _compress(runs: list[int]) -> str:
    out = bytearray()
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            ends = value == (-1 if bits & 16 else 0)
            out.append(48 + bits + (0 if ends else 32))
            if ends:
                break
    return out.decode()


def _expand(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
