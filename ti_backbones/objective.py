"""The training objective: reconstruction, ordinary and secondary constraints, collapse guard.

Pure functions over latents and views, and one thin module that assembles them. Presets:

- ``o2``: two views an image, an exact `O2Representation`, relative ordinary error, and the picture
  drawn from the pooled latent: x from z, and g·x from T_g z. Composition needs no loss. In the first half
  of the steps only x is drawn from z; then T starts from what fits the latents best.
- ``autoencoder``: the rival: each view drawn from its own pooled latent, nothing asked of T.
- ``paper``: TI-Net's [0] fourteen views and terms on `LowRankAffine`, corrected: angles in radians,
  errors relative to the latent's variance, a linear last decoder layer, corners that tell nothing.

[0] Learning Transformation-Isomorphic Latent Space for Accurate Hand Pose Estimation,
    arXiv 2502.12535.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from torch import Tensor, nn

from . import isomorphism, o2
from .backbone import TIBackbone
from .decoder import Decoder
from .images import Frame, view
from .latent import LatentTransformer, O2Representation
from .o2 import Element

UNIFORMS = 6 + 5 * 14  # uniform numbers that decide everything random about one source image
RISE = 0.1  # share of the steps over which the terms of T come in, where they do not count from the start
FITTED_ON, FITTED_STEPS = 256, 60  # images that T is then fitted to, and the steps of that
OF_VIEWS = ("reconstruction", "latent_floor")  # terms that ask nothing of T


@dataclass(frozen=True)
class Objective:
    """What is minimised: the views and the weight of each term.

    Attributes:
        latent: kind of the latent transformer.
        views: the plan of views, "pair" or "paper".
        decode: what the decoder draws from: the pooled latent, or the last feature map.
        reconstruction: weight of ‖dec(z(x)) - x‖², mean over pixels and views.
        transformed: weight of ‖dec(T_g z(x)) - g·x‖² (pooled decoding only).
        identity: weight of the relative error of T_e z = z.
        ordinary: weight of the relative error of T_g z(x) = z(g·x).
        contrast: weight of the contrast of P(T_g z(x) - μ) and P(z(g·x) - μ) with those of the batch's other images.
        temperature: of the contrast.
        secondary: weight of the relative error of T_h T_g z(x) = z(h·g·x), summed over compositions.
        relative_to: what the errors are relative to: the latent's variance, or the error of doing
            nothing; the ordinary error is then 1 - gain, and its term log(2 - gain).
        moving_floor: weight of the hinge that keeps what g changes in each coordinate of P(z - μ) at
            `floor` times the coordinates' mean, or more. It counts the change between two views of
            one image: variance that invariant content brings would hide a collapse.
        latent_floor: weight of the hinge that keeps z's mean standard deviation at `floor` or more;
            relative errors leave the scale free.
        floor: the standard deviation asked for.
        alone: share of the steps in which nothing is asked of T: each view is drawn from its own latent, which
            thereby comes to hold more; see `asked`. Of no effect for affine maps, and without reconstruction.
        colour: strength of the change of colour and exposure between the views, 0 for none.
        frame: how views are framed, see `images`.
    """

    latent: Literal["o2", "affine"] = "o2"
    views: Literal["pair", "paper"] = "pair"
    decode: Literal["pooled", "map"] = "pooled"
    reconstruction: float = 1.0
    transformed: float = 1.0
    identity: float = 0.0
    ordinary: float = 0.1
    contrast: float = 0.0
    temperature: float = 0.2
    secondary: float = 0.0
    relative_to: Literal["nothing", "variance"] = "nothing"
    moving_floor: float = 0.25
    latent_floor: float = 0.25
    floor: float = 0.5
    alone: float = 0.5
    colour: float = 0.0
    frame: Frame = "disc"

    @property
    def waits(self) -> bool:
        """Whether nothing is asked of T at first."""
        return self.alone > 0 and self.reconstruction > 0 and self.latent == "o2"

    def asked(self, step: int, steps: int) -> float:
        """How much the terms that ask something of T count in a step, from 0: nothing at first, all after a rise."""
        return min(max((step / steps - self.alone) / RISE, 0.0), 1.0) if self.waits else 1.0

    def begins(self, step: int, steps: int) -> bool:
        """Whether it is before this step that T is to be fitted to the latents."""
        return self.waits and step == math.ceil(self.alone * steps)

    @property
    def trains_transformer(self) -> bool:
        """Whether any term reaches the latent transformer; else one is to be fitted afterwards."""
        return any((self.transformed, self.identity, self.ordinary, self.contrast, self.secondary))


PRESETS: dict[str, Objective] = {
    "o2": Objective(),
    "autoencoder": Objective(transformed=0.0, ordinary=0.0, moving_floor=0.0, latent_floor=0.0, alone=0.0),
    "paper": Objective(
        latent="affine",
        views="paper",
        decode="map",
        transformed=0.0,
        identity=0.01,
        ordinary=0.01,
        secondary=0.01,
        relative_to="variance",
        moving_floor=0.0,
        latent_floor=0.0,
        alone=0.0,
    ),
}


@dataclass(frozen=True)
class Plan:
    """Which views are made, and which pairs of them the constraints compare.

    Attributes:
        elements: one batch of B elements per view, relative to the source image.
        ordinary: (a, b): T_g z_a should equal z_b, with g the element from view a to view b.
        secondary: (a, g, h, b): T_h T_g z_a should equal z_b.
    """

    elements: list[Element]
    ordinary: list[tuple[int, int]]
    secondary: list[tuple[int, Element, Element, int]]


def pair_plan(u: Tensor) -> Plan:
    """Two independent, uniformly random views of each image.

    Args:
        u: (B, >= 4) uniform numbers in [0, 1).
    """
    return Plan([o2.from_uniform(u[:, 0], u[:, 1]), o2.from_uniform(u[:, 2], u[:, 3])], [(0, 1)], [])


def paper_plan(u: Tensor) -> Plan:
    """TI-Net's fourteen views and nine compositions, all behind one random base element.

    View 0 is the (randomly placed) image itself; 1 to 3 are h, r(a1), hr(a2); 4 and 5 are r(b1) and
    hr(b2); the rest are the compositions of the first three with h, r(b1), hr(b2) [0, Table 1].

    Args:
        u: (B, >= 6) uniform numbers in [0, 1): base flip and angle, a1, a2, b1, b2.
    """
    a1, a2, b1, b2 = (u[:, i].double() * o2.TAU for i in range(2, 6))
    rotation = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    h = Element(~rotation, torch.zeros_like(a1))
    first = [h, Element(rotation, a1), Element(~rotation, a2)]
    second = [h, Element(rotation, b1), Element(~rotation, b2)]
    views, secondary = [o2.identity(len(u), u.device), *first, *second[1:]], []
    for g in first:
        for k in second:
            involution = g is h and k is h  # h∘h = e: the image itself
            secondary.append((0, g, k, 0 if involution else len(views)))
            if not involution:
                views.append(k @ g)
    base = o2.from_uniform(u[:, 0], u[:, 1])
    return Plan([v @ base for v in views], [(0, 1), (0, 2), (0, 3)], secondary)


PLANS = {"pair": pair_plan, "paper": paper_plan}


def recolour(images: Tensor, u: Tensor, strength: float) -> Tensor:
    """Change exposure, contrast and the colour of the light, image by image.

    Args:
        images: (B, 3, H, W) in [0, 1].
        u: (B, 5) uniform numbers: a gain for each channel, contrast, brightness.
        strength: 0 leaves the images as they are; gains vary by up to ± strength.
    """
    s = ((u * 2 - 1) * strength).to(images)[:, :, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    gain = (1 + 0.5 * s[:, :3]) * (1 + 0.5 * s[:, 4:5])
    # (x - mean) · (1 + contrast) + mean, times the gain, in one pass over the images
    return torch.addcmul(-mean * s[:, 3:4] * gain, images, (1 + s[:, 3:4]) * gain).clamp_(0, 1)


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (D,) of latents over the whole batch of all ranks, with gradient."""
    s = over_ranks(torch.stack([z.mean(0), z.square().mean(0)]))
    return s[0], (s[1] - s[0].square()).clamp(min=0)


def over_ranks(mean: Tensor) -> Tensor:
    """The average of every rank's batch mean, with gradient."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        return dist_nn.all_reduce(mean) / dist.get_world_size()
    return mean


def mean_of(terms: list[Tensor]) -> Tensor:
    """The mean of scalars."""
    return torch.stack(terms).mean()


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """E‖prediction - target‖² over a batch: (B, D), (B, D) -> ()."""
    return (prediction - target).square().sum(1).mean()


def relative_error(prediction: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """E‖prediction - target‖² / scale.

    Args:
        prediction, target: (B, D).
        scale: (), the latent's variance, or the error of doing nothing.
    """
    return squared_error(prediction, target) / scale.clamp(min=1e-12)


def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, arXiv 2002.05709, equation 1): of all 2B vectors, a_i and b_i are each other's likeliest.

    Args:
        a, b: (B, D) of two views of the same images, in order. Under torchrun each process contrasts its own.
    """
    both = F.normalize(torch.cat([a, b]), dim=1)
    alike = both @ both.mT / temperature
    alike.fill_diagonal_(-torch.inf)
    return F.cross_entropy(alike, torch.arange(len(both), device=a.device).roll(len(a)))


def floor_hinge(variance: Tensor, floor: float) -> Tensor:
    """Mean of max(0, floor - std): zero where every coordinate varies enough (VICReg, arXiv 2105.04906)."""
    return (floor - (variance + 1e-6).sqrt()).relu().mean()


class TIObjective(nn.Module):
    """Everything that is trained, and its loss.

    Args:
        ti: the TI backbone.
        decoder: a decoder of what `objective.decode` names.
        objective: weights and views.
        mean, std: (3,) normalisation of the images, as the encoder wants it.

    Attributes:
        asked: how much the terms of T count in the next step, see `prepare`.
    """

    image_mean: Tensor
    image_std: Tensor
    decoder: Decoder

    def __init__(self, ti: TIBackbone, decoder: Decoder, objective: Objective, mean, std):
        super().__init__()
        self.ti, self.decoder, self.objective = ti, decoder, objective
        self.asked = 1.0
        self.register_buffer("image_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def transformer(self) -> LatentTransformer:
        return self.ti.latent_transformer

    def views(self, images: Tensor, u: Tensor) -> tuple[Plan, list[Tensor], list[Tensor]]:
        """The plan, the views that the encoder sees, and what the decoder has to draw of them, at its resolution.

        Args:
            images: (B, 3, S, S) in [0, 1]. u: (B, UNIFORMS) uniform numbers.
        """
        w, plan = self.objective, PLANS[self.objective.views](u)
        clean = (images - self.image_mean) / self.image_std
        views = [view(g, clean, frame=w.frame) for g in plan.elements]
        targets = [F.adaptive_avg_pool2d(v, self.decoder.side) for v in views]
        if not w.colour:
            return plan, views, targets
        inputs = []
        for i, g in enumerate(plan.elements):
            lit = recolour(images, u[:, 6 + 5 * i :][:, :5], w.colour)
            inputs.append(view(g, (lit - self.image_mean) / self.image_std, frame=w.frame))
        return plan, inputs, targets

    def prepare(self, step: int, steps: int, images: Callable[[int], Tensor]) -> None:
        """What comes before a step: how much is asked of T in it, and a fit of T where that begins.

        Args:
            images: gives so many training images, (N, 3, S, S) uint8, the same on every rank.
        """
        self.asked = self.objective.asked(step, steps)
        if self.objective.begins(step, steps):
            self._fit(images(FITTED_ON))

    def _fit(self, images: Tensor) -> None:
        """Let T start from the representation that fits the latents best; the same on every rank."""
        transformer = self.transformer
        assert isinstance(transformer, O2Representation)  # `waits` says so
        frame, device, training = self.objective.frame, self.image_mean.device, self.ti.training
        self.ti.eval()
        with torch.random.fork_rng([]):  # whatever was drawn before
            torch.manual_seed(0)
            fitted = isomorphism.represent(self.ti.encoder, images, frame, device, transformer.blocks, FITTED_STEPS)
        self.ti.train(training)
        with torch.no_grad():
            transformer.weight.copy_(fitted.weight)
            if dist.is_initialized():
                dist.broadcast(transformer.weight, 0)

    def forward(self, images: Tensor, u: Tensor) -> dict[str, Tensor]:
        """The loss and its terms.

        Args:
            images: (B, 3, S, S) in [0, 1].
            u: (B, UNIFORMS) uniform numbers in [0, 1) that decide the views.

        Returns:
            scalars: "loss", every term of nonzero weight, and the batch's "gain" and "moving_share".
        """
        w = self.objective
        plan, inputs, targets = self.views(images, u)
        z_all, maps = self.ti.encode(torch.cat(inputs).contiguous(memory_format=torch.channels_last))
        z_all = z_all.float()
        self.transformer.observe(z_all)
        z, variance = z_all.split(len(images)), moments(z_all)[1]
        doing_nothing = over_ranks(mean_of([squared_error(z[a], z[b]) for a, b in plan.ordinary]))
        scale = doing_nothing if w.relative_to == "nothing" else variance.sum()

        terms = {"reconstruction": self.draw(z_all if w.decode == "pooled" else maps, torch.cat(targets))}
        moves = [(a, plan.elements[b] @ o2.inverse(plan.elements[a]), b) for a, b in plan.ordinary]
        decodes_moved, ways = bool(w.transformed and self.asked) and w.decode == "pooled", len(moves)
        if decodes_moved:  # the way back is another picture to draw, and costs no encoder pass
            moves += [(b, o2.inverse(g), a) for a, g, b in moves]
        moved = self.transformer(torch.cat([z[a] for a, *_ in moves]), o2.cat([g for _, g, _ in moves]))
        arrived = torch.cat([z[b] for *_, b in moves[:ways]])
        error = over_ranks(squared_error(moved[: len(arrived)], arrived))
        error = error / scale.clamp(min=1e-12)
        # an encoder that hardly moves at first has errors of a hundred times doing nothing: take their logarithm
        terms["ordinary"] = error.log1p() if w.relative_to == "nothing" else error
        if decodes_moved:
            terms["transformed"] = self.draw(moved, torch.cat([targets[b] for *_, b in moves]))
        if w.contrast:
            pair = torch.cat([moved[: len(images)], arrived[: len(images)]])
            there, seen = self.transformer.coordinates(pair).chunk(2)
            terms["contrast"] = contrast(there, seen, w.temperature)
        if w.identity:
            unmoved = self.transformer(z[0], o2.identity(len(images), z_all.device))
            terms["identity"] = relative_error(unmoved, z[0], scale)
        if w.secondary and plan.secondary:
            composed = [(self.transformer(self.transformer(z[a], g), h), z[b]) for a, g, h, b in plan.secondary]
            terms["secondary"] = torch.stack([relative_error(m, t, scale) for m, t in composed]).sum()
        if w.moving_floor:
            a, b = plan.ordinary[0]
            before, after = self.transformer.coordinates(torch.cat([z[a], z[b]])).chunk(2)
            moving = over_ranks((after - before).square().mean(0))
            terms["moving_floor"] = floor_hinge(moving / moving.mean().detach().clamp(min=1e-12), w.floor)
        if w.latent_floor:
            terms["latent_floor"] = floor_hinge(variance.mean(0, keepdim=True), w.floor)
        weights = {name: getattr(w, name) * (1.0 if name in OF_VIEWS else self.asked) for name in terms}
        loss = torch.stack([weights[name] * term for name, term in terms.items() if weights[name]]).sum()
        with torch.no_grad():
            gain = 1 - error * scale / doing_nothing.clamp(min=1e-12)
            share = doing_nothing / (2 * variance.sum()).clamp(min=1e-12)
        return {"loss": loss, **terms, "gain": gain, "moving_share": share}

    def draw(self, features: Tensor, target: Tensor) -> Tensor:
        """Mean squared error per pixel of the decoded images against targets (B, 3, side, side)."""
        drawn = self.decoder(features.to(memory_format=torch.channels_last) if features.ndim == 4 else features)
        return (drawn.float() - target).square().mean()
