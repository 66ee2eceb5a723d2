"""Depthwise convolutions give the gradients of PyTorch's own, and models stay what they are."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ti_backbones.kernels import DepthwiseConv2d, for_training

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def gradients(conv: nn.Module, x: Tensor, g: Tensor, bf16: bool = False) -> list[Tensor]:
    """Output, and gradients of <g, conv(x)> by x and by each parameter."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = conv(x)
    return [y, *torch.autograd.grad(y, [x, *conv.parameters()], g.to(y.dtype))]


@given(
    st.tuples(*[st.sampled_from([1, 2, 3, 4, 5, 7])] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    SIZES,
    st.data(),
    st.booleans(),
)
def test_gradients_are_those_of_conv2d(kernel, stride, size, data: st.DataObject, bias: bool):
    padding = data.draw(st.tuples(*[st.integers(0, k - 1) for k in kernel]))
    size = tuple(max(n, k - 2 * p) for n, k, p in zip(size, kernel, padding, strict=True))
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=bias).double()
    quick = for_training(copy.deepcopy(plain))
    assert type(quick) is DepthwiseConv2d
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    g = torch.randn_like(plain(x))
    for ours, theirs in zip(gradients(quick, x, g), gradients(plain, x, g), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [2, 9])
def test_gradients_in_bf16_are_those_of_fp32_to_its_rounding(kernel: int, stride: int, size: int):
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 32, kernel, stride, kernel // 2, groups=32)
    quick = for_training(copy.deepcopy(plain))
    x = torch.randn(8, 32, size, size)
    g = torch.randn_like(plain(x))
    for ours, exact in zip(gradients(quick, x, g, bf16=True), gradients(plain, x, g), strict=True):
        assert (ours.float() - exact).norm() <= 2**-7 * exact.norm()


def test_a_frozen_filter_or_input_gets_no_gradient():
    conv = for_training(nn.Conv2d(4, 4, 5, 2, 2, groups=4, bias=False))
    x = torch.randn(1, 4, 8, 8)
    conv(x).sum().backward()
    assert x.grad is None
    assert conv.weight.grad is not None
    conv.requires_grad_(False)
    x.requires_grad_()
    conv(x).sum().backward()
    assert x.grad is not None


def test_what_is_not_depthwise_keeps_its_class():
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, padding=3),
        nn.Conv2d(4, 4, 3, groups=4, padding_mode="reflect", padding=1),
    )
    assert all(type(conv) is nn.Conv2d for conv in for_training(others))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "convnext_atto"])
def test_models_say_the_same_and_keep_their_names(name: str):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0).eval()
    quick = for_training(copy.deepcopy(plain))
    assert any(isinstance(part, DepthwiseConv2d) for part in quick.modules())
    assert quick.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(quick(x), plain(x), rtol=1e-4, atol=1e-5)
    quick(x).square().sum().backward()
    plain(x).square().sum().backward()
    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() <= 1e-3 * theirs.grad.abs().max() + 1e-9
