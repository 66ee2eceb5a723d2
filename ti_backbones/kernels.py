"""Modules as training runs them fastest: channels last, with quick gradients for depthwise convolutions.

On a CPU oneDNN computes two gradients of a depthwise convolution up to some hundred times slower than its forward
pass: that of a strided one with respect to the input, and, in bfloat16, that of a kernel larger than 3 x 3 or than
the output with respect to the weights. EfficientNets spend nine tenths of a training step there. The same sums are
quick as a convolution of stride 1 of the gradient spread out with zeros, and in float32.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Module = TypeVar("Module", bound=nn.Module)


def for_training(module: Module) -> Module:
    """Lay out a module, in place, as its training runs fastest.

    Values, names and gradients stay what they are.

    Args:
        module: any; its depthwise `torch.nn.Conv2d` become `DepthwiseConv2d`, all else keeps its class.

    Returns:
        The same module, its four-dimensional parameters in channels-last order.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and _is_depthwise(part):
            part.__class__ = DepthwiseConv2d
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `DepthwiseConv2d` computes its gradients."""
    return (
        1 < conv.groups == conv.in_channels == conv.out_channels
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.dilation == (1, 1)
        and all(p < k for p, k in zip(conv.padding, conv.kernel_size, strict=True))
    )


class DepthwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of one filter a channel, whose gradients are quick on a CPU with oneDNN."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        trained = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
        if not trained or input.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        y = _Depthwise.apply(input, weight, self.stride, self.padding)
        return y if bias is None else y + bias[:, None, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _of_input(g, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            wide = weight.dtype == torch.bfloat16 and max(weight.shape[2:]) > min(3, *g.shape[2:])
            g, x, w = (t.float() if wide else t for t in (g, x, weight))
            of_weight = torch.ops.aten.convolution_backward(
                g, x, w, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(w), (False, True, False)
            )[1].to(weight.dtype)
        return of_x, of_weight, None, None


def _of_input(g: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The correlation's adjoint: the convolution with the flipped kernel, of g spread out by the stride."""
    kernel = weight.shape[2:]
    if stride != (1, 1):
        size = [n + 2 * p - k + 1 for n, p, k in zip(x.shape[2:], padding, kernel, strict=True)]
        spread = torch.empty((*g.shape[:2], *size), dtype=g.dtype, memory_format=torch.channels_last).zero_()
        spread[:, :, :: stride[0], :: stride[1]] = g
        g = spread
    around = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    return F.conv2d(g, weight.flip(2, 3), None, 1, around, 1, len(weight))
