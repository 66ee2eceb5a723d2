"""Labelled hands as tensors: from samples to batches, in memory or read as needed, and what is kept for validation.

A batch is a dict of tensors, one row a hand:

    image       (B, 3, S, S) uint8, the centred square of the sample's image, resized
    joints      (B, 21, 3) mm, camera frame
    valid       (B, 21) bool
    pixels      (B, 21, 2) joints in pixels of `image`, the first pixel spanning 0 to 1
    intrinsics  (B, 3, 3) K of `image`
    side        (B,) float, 1 right, -1 left, 0 unknown, as the image shows it
    mirrored    (B,) bool, whether it is mirrored against the file
    index       (B,) the sample's place in its set

and `about`, JSON strings with each sample's key, side and extra, while it is read; for a frozen encoder `latent` (B, D)
stands in the place of `image`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..data.broken import Tally
from ..data.images import Samples, Selection, read, square
from ..data.order import generator
from ..data.sample import JOINTS, Sample, project
from ..errors import BrokenSample, InputError, NoHand
from . import metrics

Batch = dict[str, Tensor]
GROUPS = ("subject", "identity", "sequence", "capture", "label")
"""entries of a sample's `extra` that say what must not be parted into training and validation; the first there is"""


def fit(sample: Sample, size: int) -> Sample:
    """The centred square of a sample's image, resized to `size`; 2D joints and K move along."""
    height, width = sample.image.shape[:2]
    side = min(height, width)
    zoom = size / side
    move = np.array([[zoom, 0, -zoom * ((width - side) // 2)], [0, zoom, -zoom * ((height - side) // 2)], [0, 0, 1]])
    pixels, intrinsics = sample.joints_px, sample.intrinsics
    return replace(
        sample,
        image=square(sample.image, size).permute(1, 2, 0).numpy(),
        joints_px=None if pixels is None else (pixels * zoom + move[:2, 2]).astype(np.float32),
        intrinsics=None if intrinsics is None else (move @ intrinsics).astype(np.float32),
        mask=None,
        crop=move @ (np.eye(3) if sample.crop is None else sample.crop),
    )


class PoseImages(Dataset):
    """A set's labelled hands, one dict of tensors each; see the module.

    Args:
        root_only: whether a labelled root is enough, as for splits whose labels are not public.

    Raises:
        NoHand: for a sample without a labelled root and another joint.
    """

    def __init__(self, samples: Samples, size: int, root_only: bool = False):
        self.samples, self.size, self.spec, self.root_only = samples, size, samples.spec, root_only
        self.starts = getattr(samples, "starts", None)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        joints = sample.joints_mm
        valid = np.ones(JOINTS, bool) if sample.valid is None else np.asarray(sample.valid, bool)
        enough = valid[0] if self.root_only else metrics.counting(torch.from_numpy(valid)[None])[0]
        if joints is None or not enough:
            what = "no joints" if joints is None else "no root and other joint"
            raise NoHand(f"sample '{sample.key}' of '{self.spec}' has {what} labelled")
        if joints.shape != (JOINTS, 3):
            raise BrokenSample(f"sample '{sample.key}' has {joints.shape} joints, where a hand has ({JOINTS}, 3)")
        fitted = fit(sample, self.size)
        intrinsics = np.eye(3, dtype=np.float32) if fitted.intrinsics is None else fitted.intrinsics
        pixels = fitted.joints_px
        if pixels is None:
            known = fitted.intrinsics is not None
            pixels = project(joints, intrinsics) if known else np.full((JOINTS, 2), np.nan, np.float32)
        return {
            "image": torch.from_numpy(fitted.image).permute(2, 0, 1),
            "joints": torch.from_numpy(np.asarray(joints, np.float32)),
            "valid": torch.from_numpy(valid),
            "pixels": torch.from_numpy(np.asarray(pixels, np.float32)),
            "intrinsics": torch.from_numpy(np.asarray(intrinsics, np.float32)),
            "side": 0.0 if sample.right is None else 1.0 if sample.right else -1.0,
            "mirrored": sample.mirrored,
            "index": index,
            "about": json.dumps({"key": sample.key, "right": sample.right, "extra": sample.extra}, default=str),
        }


class InMemory:
    """Hands that are in memory as tensors of one row each."""

    in_memory = True
    starts = None

    def __init__(self, tensors: Batch, tally: Tally):
        self.tensors, self.tally = tensors, tally

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def take(self, indices: Tensor | np.ndarray | list[int]) -> InMemory:
        """Some of them."""
        return InMemory({k: v[torch.as_tensor(indices)] for k, v in self.tensors.items()}, self.tally)

    def batches(self, order: Iterable[list[int]]) -> Iterator[Batch]:
        for indices in order:
            yield {k: v[indices] for k, v in self.tensors.items()}


class OnDisk:
    """Hands that are read when they are needed, by worker processes; broken ones are replaced and counted."""

    in_memory = False

    def __init__(self, images: PoseImages, workers: int, tally: Tally):
        self.images, self.workers, self.tally, self.starts = images, workers, tally, images.starts

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Iterable[list[int]]) -> Iterator[Batch]:
        for batch in read(self.images, order, self.workers, self.tally):
            yield {k: v for k, v in batch.items() if k != "about"}


Hands = InMemory | OnDisk


def stream(
    samples: Samples,
    size: int,
    workers: int,
    tally: Tally,
    keep_replaced: bool = False,
    root_only: bool = False,
    desc: str = "reading hands",
) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
    """Every hand of a set once, in batches, with a progress bar if it takes long.

    Args:
        tally: counts what is broken.
        keep_replaced: whether others stand in the place of broken samples and of images without a labelled hand, so
            that a run on them is the same as one that reads them from disk; else they are left out.
        root_only: see `PoseImages`.

    Yields:
        a batch, and key, right and extra of each of its samples.

    Raises:
        InputError: if no hand is labelled, or too many samples are broken.
    """
    require_labels(samples)
    order = in_chunks(len(samples), 64)
    with tqdm(total=len(samples), desc=desc, unit="img", delay=2, leave=False) as bar:
        batches = read(PoseImages(samples, size, root_only), order, workers, tally)
        for indices, batch in zip(order, batches, strict=True):
            about = [json.loads(text) for text in batch.pop("about")]
            own = (batch["index"] == torch.tensor(indices)) | keep_replaced
            yield (
                {k: v[own] for k, v in batch.items()},
                [a for a, mine in zip(about, own.tolist(), strict=True) if mine],
            )
            bar.update(len(indices))
    tally.share()
    tally.check()


def load(samples: Samples, size: int, workers: int = 0, keep_replaced: bool = False) -> InMemory:
    """Decode every hand of a set into memory; see `stream`."""
    tally = Tally(len(samples), samples.spec)
    parts = [batch for batch, _ in stream(samples, size, workers, tally, keep_replaced)]
    return InMemory({k: torch.cat([part[k] for part in parts]) for k in parts[0]}, tally)


def require_labels(samples: Samples) -> None:
    """Raise InputError if a set has no labels at all: its first samples have none."""
    for index in range(min(len(samples), 20)):
        try:
            if samples[index].joints_mm is not None:
                return
        except BrokenSample:
            return  # whatever it is, reading the set says it
    raise InputError(f"data '{samples.spec}' has no hand with labelled joints: give a set with labels")


def open_hands(samples: Samples, size: int, cache_gb: float, workers: int) -> Hands:
    """A set in memory if its images take no more than `cache_gb` GiB, else read as needed."""
    if len(samples) * 3 * size**2 <= cache_gb * 2**30:
        return load(samples, size, workers if len(samples) > 4096 else 0, keep_replaced=True)
    require_labels(samples)
    return OnDisk(PoseImages(samples, size), workers, Tally(len(samples), samples.spec))


def split_validation(samples: Samples, share: float, seed: int) -> tuple[Selection, Selection, str]:
    """Training and validation samples of one set, and by what they were parted.

    Whole groups (subjects, identities, sequences, ...) go to validation, drawn by seed, until `share` of the samples is
    there, if the set says groups and has more than one; else single samples do.

    Raises:
        InputError: if nothing is left to train on.
    """
    n = len(samples)
    wanted = max(round(share * n), 1)
    if n < 2:
        raise InputError(f"data '{samples.spec}' has {n} sample: give more, or --val-data")
    groups, by = _groups(samples)
    rng = generator(seed, 4)
    held = np.zeros(n, bool)
    names = np.unique(groups) if groups is not None else np.empty(0)
    if groups is not None and len(names) > 1:
        for i in torch.randperm(len(names), generator=rng).tolist()[:-1]:
            if held.sum() >= wanted:
                break
            held |= groups == names[i]
        how = f"{held.sum()} samples of other {by}"
    else:
        held[torch.randperm(n, generator=rng)[:wanted].numpy()] = True
        how = f"{held.sum()} samples, drawn by seed"
    return Selection(samples, np.flatnonzero(~held)), Selection(samples, np.flatnonzero(held)), how


def _groups(samples: Samples) -> tuple[np.ndarray | None, str]:
    """Each sample's group, and what the groups are; None if the set does not say."""
    base, indices = samples, np.arange(len(samples))
    while isinstance(base, Selection):
        base, indices = base.samples, base.indices[indices]
    if hasattr(base, "group"):
        return np.array([base.group(i) for i in indices.tolist()]), "groups"  # pyright: ignore
    try:
        extra = samples[0].extra
    except BrokenSample:
        extra = {}
    name = next((g for g in GROUPS if g in extra), None)
    if name is None:
        return None, ""

    def group(index: int) -> str:
        try:
            return str(samples[index].extra.get(name))
        except BrokenSample:
            return ""

    bar = tqdm(range(len(samples)), desc=f"reading each {name}", unit="img", delay=2, leave=False)
    return np.array([group(i) for i in bar]), f"{name} entries"


def label_subset(count: int, labels: float, seed: int) -> np.ndarray:
    """Ascending indices of the labelled samples that may be used: a share of `count`, or that many if above 1.

    Subsets of one seed are nested.
    """
    wanted = count if labels == 1 else max(round(labels * count), 1) if labels < 1 else min(round(labels), count)
    order = torch.randperm(count, generator=generator(seed, 5))
    return np.sort(order[:wanted].numpy())


def drawn(hands: Hands, count: int) -> Batch:
    """Some hands of a set, at most `count`, as one batch: not its first ones, which may be of one person."""
    return next(iter(hands.batches([label_subset(len(hands), count, 0).tolist()])))


def in_chunks(count: int, size: int) -> list[list[int]]:
    """0 ... count - 1 in lists of `size`."""
    return [list(range(i, min(i + size, count))) for i in range(0, count, size)]
