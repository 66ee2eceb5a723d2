"""Weights as float16 holds them, with what rounding shifts put right again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ti_backbones.backbone import TIBackbone, halved


@torch.no_grad()
def rounded(ti: TIBackbone, images: Tensor) -> TIBackbone:
    """A copy whose encoder's large weights are what float16 holds, and whose BatchNorms expect what comes to them now.

    Activations behind a ReLU are positive: a rounded weight's error adds up over them to a shift of its channel, which
    is most of what rounding does to the features. Every running mean is moved by that shift: the empirical bias
    correction of Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
    (arXiv 1906.04721).

    Args:
        ti: in eval mode; an encoder without BatchNorm is rounded alone.
        images: (N, 3, S, S) float in [0, 1], of training, which the shifts are measured on.
    """
    result = copy.deepcopy(ti)
    for parameter in result.encoder.parameters():
        parameter.copy_(halved(parameter))
    means: dict[str, Tensor] = {}

    def correct(name: str, norm: _BatchNorm, mean: Tensor) -> None:
        assert norm.running_mean is not None
        norm.running_mean += mean - means[name]  # before it is used: the layers behind it see what is corrected

    _visit(ti.encoder, images, lambda name, _, mean: means.update({name: mean}))
    _visit(result.encoder, images, correct)
    return result


def _visit(encoder: nn.Module, images: Tensor, visit: Callable[[str, _BatchNorm, Tensor], None]) -> None:
    """Call `visit` with every BatchNorm in use, by name, and its input's mean, (C,), before it runs."""

    def hook(norm: nn.Module, inputs: tuple[Tensor], name: str) -> None:
        assert isinstance(norm, _BatchNorm)
        visit(name, norm, inputs[0].transpose(0, 1).flatten(1).mean(1))

    handles = [
        module.register_forward_pre_hook(partial(hook, name=name))
        for name, module in encoder.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    try:
        encoder(images)
    finally:
        for handle in handles:
            handle.remove()
