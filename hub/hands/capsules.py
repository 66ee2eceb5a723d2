"""The hand as capsules: how deep parts of it penetrate each other, or another hand."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

from .model import BONES, FINGER, METACARPAL, ORDER, PARENTS, WRIST, chain, hand_model, joints_of

WEB = 0.6
"""share of the proximal phalanx that neighbours share skin along"""
PALM = 0.9
"""share of the metacarpals that is as thick as the palm"""


def segments(joints: np.ndarray) -> np.ndarray:
    """(19, 2, 3) capsule axes: three for every finger, then four metacarpals.

    A finger's first begins where it leaves the palm; the thumb's is the outer half of its metacarpal.
    """
    out = np.empty((19, 2, 3))
    for finger in range(5):
        at = joints[1 + 4 * finger : 5 + 4 * finger]
        out[3 * finger : 3 * finger + 3] = np.stack([at[:-1], at[1:]], 1)
        out[3 * finger, 0] += (WEB if finger else 0.5) * (at[1] - at[0])
    out[15:, 0] = joints[0]
    out[15:, 1] = joints[0] + PALM * (joints[[5, 9, 13, 17]] - joints[0])
    return out


@cache
def _radii() -> np.ndarray:
    """(19,) capsule radii in mm, as shares of the palm's length measured on the mean hand.

    Each is a low (40th) percentile of the skin's distance from the axis; for the palm, half its thickness.
    """
    hand = hand_model()
    vertices, heads = hand.shape(np.zeros(hand.components))
    joints = joints_of(heads, hand.tips(vertices), chain(heads, np.tile(np.eye(3), (len(BONES), 1, 1)), PARENTS, ORDER))
    owner, axes, out = hand.weights.argmax(1), segments(joints), np.empty(19)
    for i in range(15):
        finger, j = divmod(i, 3)
        start, end = joints[1 + 4 * finger + j], joints[2 + 4 * finger + j]
        mine = vertices[owner == FINGER + i]
        t = np.clip((mine - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        inside = (t > (0.15 if j else 0.6)) & (t < 0.9)  # webs, and the ball of the thumb, are soft
        away = np.linalg.norm(mine - start - t[:, None] * (end - start), axis=1)
        out[i] = np.percentile(away[inside], 40)  # flesh gives way, bone does not
    palm = vertices[(owner >= METACARPAL) & (owner < FINGER)]
    for i in range(4):
        start, end = axes[15 + i]
        t = np.clip((palm - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        away = palm - start - t[:, None] * (end - start)
        near = (np.abs(away[:, 0]) < 6) & (t > 0.4) & (t < 0.95)
        out[15 + i] = np.median(np.abs(away[near, 2]))
    return out / np.linalg.norm(heads[FINGER + 6] - heads[WRIST])


@cache
def _touching() -> np.ndarray:
    """(19, 19) bool: pairs that may not overlap. Neighbours along a finger, and in the palm, always do."""
    out = np.triu(np.ones((19, 19), bool), 1)
    for finger in range(5):
        out[3 * finger : 3 * finger + 3, 3 * finger : 3 * finger + 3] = False
        out[3 * finger, 15:] = False  # a base grows out of the palm
    out[15:, 15:] = False
    return out


@njit(cache=True)
def _segment_distance(p0, p1, q0, q1):
    """Shortest distance of two segments (Ericson, Real-Time Collision Detection, 5.1.9)."""
    d1, d2, r = p1 - p0, q1 - q0, p0 - q0
    a, e, f = d1 @ d1, d2 @ d2, d2 @ r
    c, b = d1 @ r, d1 @ d2
    den = a * e - b * b
    s = min(max((b * f - c * e) / den, 0.0), 1.0) if den > 1e-9 else 0.0
    t = (b * s + f) / e
    if t < 0:
        t, s = 0.0, min(max(-c / a, 0.0), 1.0)
    elif t > 1:
        t, s = 1.0, min(max((b - c) / a, 0.0), 1.0)
    gap = r + s * d1 - t * d2
    return np.sqrt(gap @ gap)


@njit(cache=True)
def deepest(a, radius_a, b, radius_b, checked):
    """Largest overlap in mm of capsules `a` (N, 2, 3) with `b` (M, 2, 3) among the pairs checked (N, M), and whose."""
    worst, first, second = -1e9, 0, 0
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            if checked[i, j]:
                depth = radius_a[i] + radius_b[j] - _segment_distance(a[i, 0], a[i, 1], b[j, 0], b[j, 1])
                if depth > worst:
                    worst, first, second = depth, i, j
    return worst, first, second


def radii(heads: np.ndarray) -> np.ndarray:
    """(19,) capsule radii in mm of a body with rest bone heads (B, 3)."""
    return _radii() * np.linalg.norm(heads[FINGER + 6] - heads[WRIST])


def overlap(joints: np.ndarray, radius: np.ndarray) -> tuple[float, int, int]:
    """How deep, in mm, a hand penetrates itself (negative: the smallest gap), and which two capsules meet there.

    Args:
        joints: (21, 3). radius: (19,).
    """
    axes = segments(joints)
    return deepest(axes, radius, axes, radius, _touching())
