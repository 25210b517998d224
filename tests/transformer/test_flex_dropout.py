"""FlexAttention with attention dropout against dropout written out on the same mask, values and gradients."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import flex_attention

from cogview.transformer.attention import CrossResolution, Local, ThreeRegion, Visibility, Window
from cogview.transformer.attention.flex import FlexKernel as RegionKernel
from cogview.transformer.attention.flex_dropout import keep_mask, mix, sample_seeds
from cogview.transformer.attention.local_flex import FlexKernel as LocalKernel

CHANCE, HEADS, WIDTH = 0.3, 2, 4


@pytest.fixture(autouse=True)
def with_gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch refuses gradients of FlexAttention on a CPU, though its reference computes them."""
    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        yield


def kept_table(seeds: Tensor, length: int) -> Tensor:
    """bool (b, heads, length, length), from positions in the sequence."""
    batch, heads, query, key = torch.meshgrid(
        *(torch.arange(n) for n in (*seeds.shape, length, length)), indexing="ij"
    )
    return keep_mask(seeds, CHANCE)(batch, head=heads, query=query, key=key)


def written(pattern: Visibility, tensors: list[Tensor], kept: Tensor, chance: float = CHANCE) -> Tensor:
    query, key, value = tensors
    length = query.shape[2]
    scores = query @ key.mT / query.shape[3] ** 0.5
    bias = pattern.bias(length, length)
    scores = scores if bias is None else scores + bias.double()
    scores = scores.masked_fill(~pattern.dense_mask(length, length), -torch.inf)
    return (scores.softmax(-1) * kept / (1 - chance)) @ value


def with_slopes(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), tensors)]


def three_region() -> tuple[ThreeRegion, RegionKernel, int]:
    """Causal: the first query sees only itself, so in some rows nothing is kept."""
    pivots = torch.tensor([[0, 3, 7, 20], [1, 2, 30, 35]])
    pattern, length = ThreeRegion(6, 2, pivots), 40
    return pattern, RegionKernel(6, 2, pivots, length, pattern.ratio(length)), length


def local(pattern: Local | CrossResolution) -> tuple[Visibility, LocalKernel, int]:
    return pattern, LocalKernel(pattern.layout, pattern.head_mask, pattern.hidden), pattern.length


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Dynamo takes a shape for dynamic where another test had it compiled for another one."""
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["three regions", "causal window", "two resolutions"])
def test_values_and_gradients_are_those_of_dropout_written_out(name: str) -> None:
    pattern: Visibility
    kernel: RegionKernel | LocalKernel
    if name == "three regions":
        pattern, kernel, length = three_region()
    elif name == "causal window":
        pattern, kernel, length = local(Local((6, 6), Window(3, 3, causal=True)))
    else:
        small = CrossResolution(3, (2, 3), (4, 6), Window(3, 3), Window(3, 3), torch.tensor([1, 2]))
        pattern, kernel, length = local(small)
    tensors = [torch.randn(2, HEADS, length, WIDTH, dtype=torch.float64) for _ in range(3)]
    tensors = [x.requires_grad_() for x in tensors]
    torch.manual_seed(3)
    found = with_slopes(kernel.attend(flex_attention, *tensors, CHANCE), tensors)
    torch.manual_seed(3)
    kept = kept_table(sample_seeds(tensors[0]), length)
    seen = pattern.dense_mask(length, length)
    if name != "two resolutions":
        assert (~(kept & seen).any(-1)).any(), "a query of which nothing is kept should be among these"
    for got, expected in zip(found, with_slopes(written(pattern, tensors, kept), tensors), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_mask_drops_its_share_and_no_two_heads_have_the_same() -> None:
    kept = kept_table(sample_seeds(torch.empty(3, 4, 1, 1)), 128).flatten(0, 1)
    assert kept.double().mean() == pytest.approx(1 - CHANCE, abs=0.004)  # 196,608 draws
    rows, columns = kept.double().mean(1), kept.double().mean(2)
    assert rows.std() < 0.05 and columns.std() < 0.05  # 0.0405 if independent
    flat = kept.flatten(1).double()
    flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    agreement = flat @ flat.T / flat.shape[1] - torch.eye(12)
    assert agreement.abs().max() < 0.035  # four standard deviations of independent masks


def test_the_hash_is_lowbias32() -> None:
    """Its constants in unsigned arithmetic of unlimited width."""

    def by_hand(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % (1 << 32)
        x ^= x >> 15
        x = x * 0x846CA68B % (1 << 32)
        return x ^ x >> 16

    values = [0, 1, 2, 77, 123456789, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    signed = torch.tensor([v - (1 << 32) if v >> 31 else v for v in values], dtype=torch.int32)
    assert [int(v) % (1 << 32) for v in mix(signed)] == [by_hand(v) for v in values]
