"""The certificate: how far a model's latent moves as the image does, measured on held-out images.

All errors are relative to the latent's variance, and set beside doing nothing: an invariant latent
satisfies every constraint, so the gain

    gain = 1 - E‖T_g z(x) - z(g·x)‖² / E‖z(x) - z(g·x)‖²

is always reported with the moving share E_x Var_g z(g·x) / Var z and the effective rank.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import o2
from .backbone import encode
from .images import Frame, view
from .latent import LatentTransformer, O2Representation
from .o2 import Element


@dataclass
class Certificate:
    """What was measured. Errors are shares of the latent's variance: 0 is exact.

    Attributes:
        gain: 1 - error / error of doing nothing, over uniformly random g.
        moving_share: share of the latent's variance that flips and rotations cause.
        effective_rank: exp of the entropy of the latent covariance's spectrum.
        ordinary_error: E‖T_g z(x) - z(g·x)‖² / Var z over uniformly random g.
        worst_angle_ratio: the largest error over angles divided by their mean.
        secondary_error: E‖T_h T_g z(x) - z(h·g·x)‖² / Var z.
        law_error: largest ‖T_h T_g z - T_hg z‖ / ‖z - μ‖ seen.
        inverse_error: largest ‖T_g⁻¹ T_g z - z‖ / ‖z - μ‖ seen.
        angles_deg: the angles, in degrees; the next four lists go with it.
        error_rotated, error_flipped: ordinary error at each angle without and with flip.
        nothing_rotated, nothing_flipped: E‖z(x) - z(g·x)‖² / Var z.
        images, dim, rank, frame, data: what it was measured on.
    """

    gain: float
    moving_share: float
    effective_rank: float
    ordinary_error: float
    worst_angle_ratio: float
    secondary_error: float
    law_error: float
    inverse_error: float
    angles_deg: list[float]
    error_rotated: list[float]
    error_flipped: list[float]
    nothing_rotated: list[float]
    nothing_flipped: list[float]
    images: int
    dim: int
    rank: int
    frame: str
    data: str = ""

    def summary(self) -> dict[str, float]:
        """The scalars."""
        return {k: v for k, v in asdict(self).items() if isinstance(v, float)}

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """The scalars, and the error at every second angle, as text."""
        rows = [
            ("gain over doing nothing", f"{self.gain:.3f}"),
            ("moving share of variance", f"{self.moving_share:.3f}"),
            ("effective rank", f"{self.effective_rank:.1f} of {self.dim}"),
            ("ordinary error / variance", f"{self.ordinary_error:.3f}"),
            ("worst angle / mean", f"{self.worst_angle_ratio:.2f}"),
            ("secondary error / variance", f"{self.secondary_error:.3f}"),
            ("law error (composition)", f"{self.law_error:.1e}"),
            ("law error (inverse)", f"{self.inverse_error:.1e}"),
        ]
        lines = [f"certificate on {self.images} images of {self.data or 'the given set'}, frame {self.frame}"]
        lines += [f"  {name:<28}{value}" for name, value in rows]
        lines.append("  angle   rotated (nothing)   flipped, rotated (nothing)")
        for i in range(0, len(self.angles_deg), 2):
            lines.append(
                f"  {self.angles_deg[i]:4.0f}°   {self.error_rotated[i]:.3f}   ({self.nothing_rotated[i]:.3f})"
                f"     {self.error_flipped[i]:.3f}   ({self.nothing_flipped[i]:.3f})"
            )
        return "\n".join(lines)

    def figure(self, path: str | Path) -> None:
        """Draw the error by angle, beside doing nothing, to an image file (needs matplotlib).

        Raises:
            ImportError: without matplotlib.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        fig = Figure(figsize=(8, 3.6), layout="constrained")
        FigureCanvasAgg(fig)
        left, right = fig.subplots(1, 2, sharey=True)
        degrees = [*self.angles_deg, 360.0]
        for axes, title, error, nothing in (
            (left, "rotated", self.error_rotated, self.nothing_rotated),
            (right, "flipped, then rotated", self.error_flipped, self.nothing_flipped),
        ):
            axes.plot(degrees, [*nothing, nothing[0]], color="0.6", label="doing nothing: z(x)")
            axes.plot(degrees, [*error, error[0]], color="C0", label="latent transformer: T$_g$ z(x)")
            axes.set(title=title, xlabel="angle [degrees]", xticks=range(0, 361, 60), ylim=(0, None))
            axes.grid(alpha=0.3)
        left.set_ylabel("squared error to z(g·x) / variance")
        fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        fig.suptitle(f"gain {self.gain:.2f}   moving share {self.moving_share:.2f}   ({self.images} held-out images)")
        fig.savefig(path, dpi=120)


@torch.no_grad()
def orbit_latents(
    encode,
    images: Tensor,
    elements: Element,
    frame: Frame,
    mean: Tensor,
    std: Tensor,
    batch: int = 128,
    desc="",
    device: torch.device | str = "cpu",
) -> Tensor:
    """Latents of every image under every element.

    Args:
        encode: (B, 3, S, S) normalised images -> (B, D).
        images: (N, 3, S, S) uint8. elements: G of them. frame: see `images.view`.
        mean, std: (3, 1, 1) normalisation. batch: images a pass. device: where to compute.
        desc: label of the progress bar.

    Returns:
        (G, N, D) float32, on the CPU.
    """
    jobs = [(k, i) for k in range(len(elements)) for i in range(0, len(images), batch)]
    out: list[list[Tensor]] = [[] for _ in range(len(elements))]
    mean, std = mean.to(device), std.to(device)
    for k, i in tqdm(jobs, desc=desc, unit="batch", delay=2, leave=False):
        x = images[i : i + batch].to(device).float() / 255
        g = Element(elements.flip[k].expand(len(x)), elements.angle[k].expand(len(x)))
        x = view(g, (x - mean) / std, frame=frame)
        out[k].append(encode(x.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.stack([torch.cat(chunk) for chunk in out])


def grid(angles: int) -> Element:
    """`angles` rotations, equally spaced from 0, then the same behind a flip."""
    theta = torch.arange(angles, dtype=torch.float64) * (o2.TAU / angles)
    return o2.element([False] * angles + [True] * angles, theta.repeat(2))


def law_errors(transformer: LatentTransformer, z: Tensor, seed: int = 0) -> tuple[float, float]:
    """Largest relative deviation from T_h T_g = T_hg, and from T_g⁻¹ T_g = 1, over random g and h.

    Args:
        z: (N, D) latents; each gets its own g and h.
    """
    rng = torch.Generator().manual_seed(seed)
    g, h = o2.sample(len(z), rng), o2.sample(len(z), rng)
    size = (z - getattr(transformer, "mean", z.mean(0))).norm(dim=1).clamp(min=1e-12)
    moved = transformer(z, g)
    law = (transformer(moved, h) - transformer(z, h @ g)).norm(dim=1) / size
    back = (transformer(moved, o2.inverse(g)) - z).norm(dim=1) / size
    return law.max().item(), back.max().item()


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the covariance's normalised eigenvalues (Roy & Vetterli 2007): z (N, D)."""
    p = torch.linalg.svdvals((z - z.mean(0)).double()).square()
    p = p / p.sum().clamp(min=1e-300)
    return math.exp(-(p * p.clamp(min=1e-300).log()).sum().item())


@torch.no_grad()
def certify(
    transformer: LatentTransformer, latents: Tensor, frame: str = "disc", data: str = "", seed: int = 0
) -> Certificate:
    """Measure the certificate on latents of images over the grid of elements.

    Args:
        transformer: T.
        latents: (2A, N, D), from `orbit_latents` with `grid(A)`.
        frame, data: recorded.
        seed: of the random pairs for the secondary and law errors.
    """
    transformer = transformer.cpu().eval()
    total, n, dim = latents.shape
    angles = total // 2
    elements = grid(angles)
    centre = latents.mean((0, 1))
    variance = (latents - centre).square().sum(2).mean().clamp(min=1e-12)
    z = latents[0]
    error, nothing = [], []
    for k in range(total):
        g = Element(elements.flip[k].expand(n), elements.angle[k].expand(n))
        error.append(((transformer(z, g) - latents[k]).square().sum(1).mean() / variance).item())
        nothing.append(((z - latents[k]).square().sum(1).mean() / variance).item())
    moving = (latents - latents.mean(0)).square().sum(2).mean() / variance
    rng = torch.Generator().manual_seed(seed)
    secondary = []
    for _ in range(16):
        a, b = (int(torch.randint(total, (), generator=rng)) for _ in range(2))
        g = Element(elements.flip[a].expand(n), elements.angle[a].expand(n))
        h = Element(elements.flip[b].expand(n), elements.angle[b].expand(n))
        hg = h[:1] @ g[:1]
        k = round(hg.angle.item() / (o2.TAU / angles)) % angles + angles * int(hg.flip.item())
        secondary.append((transformer(transformer(z, g), h) - latents[k]).square().sum(1).mean() / variance)
    law, back = law_errors(transformer, z, seed)
    mean_error = sum(error) / total
    return Certificate(
        gain=1 - sum(error) / max(sum(nothing), 1e-12),
        moving_share=moving.item(),
        effective_rank=effective_rank(latents.flatten(0, 1)[:: max(total * n // 8192, 1)]),
        ordinary_error=mean_error,
        worst_angle_ratio=max(error) / max(mean_error, 1e-12),
        secondary_error=torch.stack(secondary).mean().item(),
        law_error=law,
        inverse_error=back,
        angles_deg=[math.degrees(a) for a in elements.angle[:angles].tolist()],
        error_rotated=error[:angles],
        error_flipped=error[angles:],
        nothing_rotated=nothing[:angles],
        nothing_flipped=nothing[angles:],
        images=n,
        dim=dim,
        rank=transformer.rank,
        frame=frame,
        data=data,
    )


def isotypic_rows(latents: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """Directions that turn by each irreducible representation, from the group's Fourier transform.

    With ẑ_ij(x) = mean_g ρ(g)_ij z(g·x), Schur orthogonality makes Σ_j E[ẑ_1j ẑ_1jᵀ] the covariance of the
    x-axes of all planes of ρ; Σ_j E[ẑ_2j ẑ_1jᵀ] takes each x-axis to its y-axis.

    Args:
        latents: (2A, N, D) centred latents of images under `grid(A)`, A > 2 K.
        blocks: as for `O2Representation`.

    Returns:
        (r, D), exact for an exact representation, orthogonal only then.
    """
    total, n, _ = latents.shape
    elements, rows = grid(total // 2), []
    for k, count in enumerate(blocks):
        sign = 1.0 - 2.0 * elements.flip.to(latents.dtype)
        rho = o2.matrix(elements, k).to(latents.dtype) if k else sign[:, None, None]
        hat = torch.einsum("gij,gnd->ijnd", rho, latents) / total
        axes = torch.linalg.eigh(torch.einsum("jnd,jne->de", hat[0], hat[0]) / n)[1].mT.flip(0)[:count]
        if k:
            other = axes @ torch.einsum("jnd,jne->de", hat[0], hat[1])
            other = other / other.norm(dim=1, keepdim=True).clamp(min=1e-12)
            axes = torch.stack([axes, other], 1).flatten(0, 1)
        rows.append(axes)
    return torch.cat(rows)


def fit_representation(
    latents: Tensor, rank: int | None = None, blocks=None, steps: int = 300, start: O2Representation | None = None
) -> O2Representation:
    """Fit an `O2Representation` to the latents of a frozen encoder: its certificate without training.

    Starts from `isotypic_rows`, or from another representation with its blocks, and minimises E‖T_g z(x) - z(g·x)‖²
    over P by Adam; μ is the mean. If neither rank nor blocks nor a start are given, blocks that do worse than nothing
    are then dropped, and the others fitted anew: what an encoder keeps still is not to be moved.

    Args:
        latents: (2A, N, D) of training images under `grid(A)`.
        rank, blocks: as for `O2Representation`.
        steps: optimiser steps.
        start: one that was trained with the encoder. It is left as it is.

    Returns:
        the fitted representation, in eval mode.
    """
    if start is not None:
        rows = start.projection().detach().to(latents)
        return _fit(latents, O2Representation(latents.shape[2], blocks=start.blocks), steps, rows)
    whole = _fit(latents, O2Representation(latents.shape[2], rank, blocks), steps)
    if rank is not None or blocks is not None:
        return whole
    kept = _worth_it(whole, latents)
    counts = [int(kept[: whole.signs].sum())]
    for k in range(1, len(whole.blocks)):
        counts.append(int(kept[whole.signs :: 2][whole.frequencies[whole.plane] == k].sum()))
    if tuple(counts) == whole.blocks:
        return whole
    rows = whole.projection().detach()[kept]
    return _fit(latents, O2Representation(latents.shape[2], blocks=counts), steps, rows)


@torch.no_grad()
def _worth_it(transformer: O2Representation, latents: Tensor) -> Tensor:
    """(r,) whether a coordinate is in a block whose error is less than that of doing nothing, or in the best of all or
    of frequency 1, which pose heads need.

    Args:
        latents: as for `fit_representation`.
    """
    y = torch.stack([transformer.coordinates(z) for z in latents])
    back = o2.inverse(grid(len(latents) // 2))
    upright = torch.stack([transformer.rotate(y[i], back[[i]]) for i in range(len(y))])
    # ρ is orthogonal: views differ by as much after they are moved as they do before the image
    error, nothing = (v.var(0, correction=0).mean(0) for v in (upright, y))
    error, nothing = (_by_block(v, transformer.signs) for v in (error, nothing))
    ratio = error / nothing.clamp(min=1e-12)
    kept = (ratio <= 1) | (ratio == ratio.min())
    if len(transformer.blocks) > 1 and transformer.blocks[1]:
        points = slice(transformer.signs, transformer.signs + 2 * transformer.blocks[1])
        kept[points] |= ratio[points] == ratio[points].min()
    return kept


def _by_block(v: Tensor, signs: int) -> Tensor:
    """(r,) the sum over each coordinate's block."""
    return torch.cat([v[:signs], v[signs:].view(-1, 2).sum(1).repeat_interleave(2)])


def _fit(latents: Tensor, transformer: O2Representation, steps: int, rows: Tensor | None = None) -> O2Representation:
    """Fit P from rows (r, D), see `fit_representation`."""
    total, n, _ = latents.shape
    elements = grid(total // 2)
    transformer.mean.copy_(latents.mean((0, 1)))
    centred = latents - transformer.mean
    with torch.no_grad():
        rows = isotypic_rows(centred, transformer.blocks) if rows is None else rows
        transformer.weight.copy_(rows + 1e-4 * transformer.weight)  # keeps the rows independent
    optimiser = torch.optim.Adam([transformer.weight], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = torch.Generator().manual_seed(0)
    for _ in tqdm(range(steps), desc="fitting a representation", unit="step", delay=2, leave=False):
        i = torch.randint(n, (512,), generator=rng)
        a, b = torch.randint(total, (2, 512), generator=rng)
        g = elements[b] @ o2.inverse(elements[a])
        loss = (transformer(latents[a, i], g) - latents[b, i]).square().sum(1).mean() / centred.square().sum(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return transformer.eval()


def represent(
    encoder: Any,
    images: Tensor,
    frame: Frame,
    device: torch.device | str = "cpu",
    blocks=None,
    steps: int = 300,
    start: O2Representation | None = None,
) -> O2Representation:
    """Fit an `O2Representation` to an encoder as it is, whether or not it was trained with one.

    Args:
        encoder: a timm model in eval mode, on `device`.
        images: (N, 3, S, S) uint8 training images. frame: how views are framed.
        blocks, steps, start: see `fit_representation`.
    """
    mean, std = normalisation(encoder)
    latents = orbit_latents(
        lambda x: encode(encoder, x)[0], images, grid(12), frame, mean, std, desc="training latents", device=device
    )
    with torch.autocast("cpu", enabled=False):  # of the caller, who may encode in bf16
        return fit_representation(latents, blocks=blocks, steps=steps, start=start).to(device)


def settle(ti: Any, trained: bool, images: Tensor, frame: Frame, device: torch.device | str = "cpu") -> None:
    """Fit the T of a backbone to its encoder, which is finished: see `represent`.

    A T that was trained along met batch statistics, noise and an encoder that moved on, and the loss gave near elements
    the weight of far ones; what is left to gain with the encoder at rest can be half of the error. A `LowRankAffine`
    that was trained stays as it is.

    Args:
        ti: a `TIBackbone` in eval mode, on `device`. trained: whether its latent transformer was trained with it.
        images, frame: see `represent`.
    """
    before = ti.latent_transformer if trained else None
    if before is None:
        ti.latent_transformer = represent(ti.encoder, images, frame, device)
    elif isinstance(before, O2Representation):  # in its place: whoever else holds it goes on with what is fitted
        before.load_state_dict(represent(ti.encoder, images, frame, device, start=before).state_dict())


def normalisation(encoder: Any) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) mean and standard deviation that the timm model's configuration asks for."""
    mean, std = (torch.tensor(encoder.pretrained_cfg[k]).view(-1, 1, 1) for k in ("mean", "std"))
    return mean, std


@torch.no_grad()
def certify_backbone(ti, images: Tensor, frame: Frame = "disc", data: str = "", angles: int = 24) -> Certificate:
    """Certify a TI backbone on held-out images.

    Args:
        ti: a `TIBackbone` in eval mode, on any device.
        images: (N, 3, S, S) uint8.
        frame: how views are framed.
        data: what the images are, recorded in the certificate.
        angles: how many rotations, equally spaced, each with and without flip.
    """
    mean, std = normalisation(ti.encoder)
    device = next(ti.parameters()).device
    latents = orbit_latents(ti, images, grid(angles), frame, mean, std, desc="certifying", device=device)
    return certify(copy.deepcopy(ti.latent_transformer), latents, frame, data)
