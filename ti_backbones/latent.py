"""Latent transformers: linear maps T_g of the latent that stand for group elements g.

One interface, ``transformer(z, g) -> z'`` with z (B, D) and g a batch of B elements, in two forms:

- `O2Representation`: an exact representation of O(2). For any weights T_h T_g = T_hg and T_e = I, so
  the secondary (composition) constraint of TI-Net [0] is a theorem and not a loss.
- `LowRankAffine`: the form of the TI-Net authors, kept as the reference. There the angle enters by
  a translation only, and constraints that hold exactly leave a latent that does not move.

[0] Learning Transformation-Isomorphic Latent Space for Accurate Hand Pose Estimation,
    arXiv 2502.12535.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .o2 import Element


def orthonormal_rows(weight: Tensor) -> Tensor:
    """Rows of `weight` (r, D), made orthonormal by a QR decomposition with a positive diagonal.

    Smooth in the weight wherever its rows are linearly independent.
    """
    q, r = torch.linalg.qr(weight.mT)
    return (q * r.diagonal().sign()).mT


def multiplicities(rank: int, max_frequency: int = 4) -> tuple[int, ...]:
    """How often each irreducible representation occurs: (sign blocks, blocks of k = 1, 2, ..., K).

    An eighth of the rank goes to 1-dim sign blocks; 2-dim blocks of frequency k share the rest in
    the proportion K : K-1 : ... : 1, low frequencies first.
    """
    planes = (rank - rank // 8) // 2
    weights = range(max_frequency, 0, -1)
    total, share, acc = sum(weights), [], 0
    for w in weights:  # cumulative rounding: the shares add up to `planes`
        share.append(round((acc + w) * planes / total) - round(acc * planes / total))
        acc += w
    return rank - 2 * planes, *share


class LatentTransformer(nn.Module):
    """Base of the latent transformers.

    Attributes:
        kind: the name that `make` knows it by.
        dim: D, width of the latent.
        rank: r, width of the low-rank residual.
    """

    kind = ""

    def __init__(self, dim: int, rank: int):
        super().__init__()
        if not 1 <= rank <= dim:
            raise ValueError(f"rank {rank} is out of range: from 1 to the latent's width, {dim}")
        self.dim, self.rank = dim, rank

    def forward(self, z: Tensor, g: Element) -> Tensor:
        """T_g z.

        Args:
            z: (B, D) latents.
            g: B elements.

        Returns:
            (B, D).
        """
        raise NotImplementedError

    def coordinates(self, z: Tensor) -> Tensor:
        """(B, r): the part of z that T_g acts on, relative to T's fixed point."""
        raise NotImplementedError

    @torch.no_grad()
    def observe(self, z: Tensor) -> None:
        """Take note of latents (B, D) of views that were transformed by uniformly random elements."""

    def config(self) -> dict:
        """What `make` needs to build it again, as plain JSON values."""
        return {"kind": self.kind, "rank": self.rank}


class O2Representation(LatentTransformer):
    """T_g z = z + Pᵀ (ρ(g) - I) P (z - μ), with ρ an orthogonal representation of O(2).

    P (r, D) has orthonormal rows; ρ is a direct sum of 1-dim sign blocks (-1)^f and 2-dim blocks
    ρ_k(g) = R(-kθ) diag(-1, 1)^f of frequency k = 1..K. T_g is an isometry with fixed point μ, and
    T_h T_g = T_hg, T_e = I to rounding, whatever the weights. Frequency 1 is the action on a point
    (x right, y down) itself.

    μ is the running mean of latents of uniformly transformed views (`observe`), the same on every
    rank of a distributed run. P is computed from a free weight in training, cached otherwise.

    Args:
        dim: D.
        rank: r <= D; min(256, D / 2) if None.
        blocks: (sign blocks, blocks of k = 1, ..., blocks of k = K), K <= 8, adding up to the rank as
            1, 2, ..., 2; `multiplicities(rank)` if None.
        momentum: weight of the newest batch in μ.

    Raises:
        ValueError: for a rank or blocks out of range.
    """

    kind = "o2"
    frequencies: Tensor
    plane: Tensor
    mean: Tensor
    observed: Tensor

    def __init__(self, dim: int, rank: int | None = None, blocks: Sequence[int] | None = None, momentum: float = 0.1):
        if rank is None:
            rank = min(256, max(dim // 2, 1)) if blocks is None else blocks[0] + 2 * sum(blocks[1:])
        super().__init__(dim, rank)
        counts: list[int] = list(multiplicities(rank) if blocks is None else blocks)
        if min(counts) < 0 or len(counts) > 9 or counts[0] + 2 * sum(counts[1:]) != rank:
            raise ValueError(
                f"blocks {tuple(counts)} do not make rank {rank}: up to 9 counts, the first of 1-dim sign"
                " blocks, the others of 2-dim blocks of frequency 1, 2, ..."
            )
        self.blocks, self.signs, self.momentum = tuple(counts), counts[0], momentum
        frequencies = [k for k, n in enumerate(counts) if k and n]
        plane = [i for i, k in enumerate(frequencies) for _ in range(counts[k])]
        self.register_buffer("frequencies", torch.tensor(frequencies, dtype=torch.float32), persistent=False)
        self.register_buffer("plane", torch.tensor(plane, dtype=torch.long), persistent=False)
        self.weight = nn.Parameter(torch.nn.init.orthogonal_(torch.empty(rank, dim)))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("observed", torch.zeros((), dtype=torch.long))
        self._cache: tuple | None = None

    def projection(self) -> Tensor:
        """P (r, D), float32 (or float64), with orthonormal rows."""
        weight = self.weight.float() if self.weight.dtype.itemsize < 4 else self.weight
        with torch.autocast(weight.device.type, enabled=False):
            if self.training or (torch.is_grad_enabled() and weight.requires_grad):
                return orthonormal_rows(weight)
            # the version counter notices every in-place change: an optimiser's step, a loaded state
            key = (self.weight._version, self.weight.data_ptr(), self.weight.device, self.weight.dtype)
            if self._cache is None or self._cache[0] != key:
                self._cache = key, orthonormal_rows(weight.detach())
            return self._cache[1]

    def coordinates(self, z: Tensor, projection: Tensor | None = None) -> Tensor:
        """P (z - μ): (B, r); first the sign blocks, then (x, y) pairs by rising frequency."""
        p = self.projection() if projection is None else projection
        with torch.autocast(z.device.type, enabled=False):
            dtype = torch.promote_types(z.dtype, p.dtype)
            return (z.to(dtype) - self.mean.to(dtype)) @ p.to(dtype).mT

    def rotate(self, y: Tensor, g: Element) -> Tensor:
        """ρ(g) y for coordinates y (B, r)."""
        sign = 1.0 - 2.0 * g.flip.to(y.device, y.dtype)[:, None]
        angle = g.angle.to(y.device)[:, None] * self.frequencies
        c, s = (f.to(y.dtype)[:, self.plane] for f in (angle.cos(), angle.sin()))
        px, py = y[:, self.signs :: 2] * sign, y[:, self.signs + 1 :: 2]
        pairs = torch.stack([c * px + s * py, c * py - s * px], -1).flatten(1)
        return torch.cat([y[:, : self.signs] * sign, pairs], 1)

    def forward(self, z: Tensor, g: Element) -> Tensor:
        p = self.projection()
        y = self.coordinates(z, p)
        with torch.autocast(z.device.type, enabled=False):
            return torch.addmm(z.to(y.dtype), self.rotate(y, g) - y, p.to(y.dtype)).to(z.dtype)

    @torch.no_grad()
    def observe(self, z: Tensor) -> None:
        mean = z.detach().to(self.mean.dtype).mean(0)
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.observed += 1
        # a plain average over the first batches, an exponential one from then on
        rate = self.observed.reciprocal().clamp(min=self.momentum)
        self.mean.lerp_(mean, rate.to(mean))

    def config(self) -> dict:
        return super().config() | {"blocks": list(self.blocks), "momentum": self.momentum}


class LowRankAffine(LatentTransformer):
    """The TI-Net authors' latent transformers: three low-rank residuals without bias.

    flip: z + W2 W1 z; rotation, and flip followed by rotation: z + W2 W1 [z; e(θ)], each with weights
    of its own, where e is an MLP of (cos θ, sin θ). The angle enters by a translation only; its
    composition law is learned, at the price of latents that move little (see the package's
    documentation of the algebra).

    Args:
        dim: D.
        rank: r; min(128, D) if None.
        embedding: width of e(θ).
    """

    kind = "affine"

    def __init__(self, dim: int, rank: int | None = None, embedding: int = 32):
        super().__init__(dim, min(128, dim) if rank is None else rank)
        self.embed = nn.Sequential(
            nn.Linear(2, embedding),
            nn.ReLU(),
            nn.Linear(embedding, embedding),
            nn.ReLU(),
            nn.Linear(embedding, embedding, bias=False),
        )
        # rotation; flip then rotation; flip
        self.down = nn.ModuleList(nn.Linear(n, self.rank, bias=False) for n in (dim + embedding,) * 2 + (dim,))
        self.up = nn.ModuleList(nn.Linear(self.rank, dim, bias=False) for _ in range(3))
        for weight in self.up.parameters():
            nn.init.normal_(weight, std=1e-3)  # every T_g starts near the identity

    def forward(self, z: Tensor, g: Element) -> Tensor:
        angle = g.angle.to(z.device)
        e = self.embed(torch.stack([angle.cos(), angle.sin()], -1).to(next(self.embed.parameters()).dtype))
        with_angle = torch.cat([z, e.to(z.dtype)], 1)
        rotation, reflection, flip = (
            up(down(x)) for up, down, x in zip(self.up, self.down, (with_angle, with_angle, z), strict=True)
        )
        flips, pure = g.flip.to(z.device)[:, None], (angle == 0)[:, None]
        residual = torch.where(flips, torch.where(pure, flip, reflection), rotation)
        return (z + residual).to(z.dtype)

    def coordinates(self, z: Tensor) -> Tensor:
        return z  # it acts on the whole latent


KINDS: dict[str, type[LatentTransformer]] = {c.kind: c for c in (O2Representation, LowRankAffine)}


def make(kind: str, dim: int, **config) -> LatentTransformer:
    """Build a latent transformer by name, "o2" or "affine".

    Raises:
        ValueError: for another name, or a configuration out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown latent transformer '{kind}': one of {', '.join(KINDS)}")
    return KINDS[kind](dim, **config)
