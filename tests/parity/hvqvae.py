"""CogView2's image tokenizer written out function by function from its released keys, for comparison.

Nothing here is shared with the package: plain functions over a dictionary of tensors under released names.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
MEAN = torch.tensor([0.79093, 0.76271, 0.75340]).view(1, 3, 1, 1)
STD = torch.tensor([0.30379, 0.32279, 0.32800]).view(1, 3, 1, 1)


def recipe_weights(shapes: dict[str, list[int]]) -> State:
    """Weights from nothing but their names and shapes (the rule of the recorded runs)."""
    state = {}
    for key, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
        n = torch.from_numpy(random.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape))
        if len(shape) == 4:
            state[key] = n / float(np.sqrt(np.prod(shape[1:])))
        elif "embed" in key:
            state[key] = 0.5 * n
        else:
            state[key] = 1 + 0.1 * n if key.endswith(".weight") else 0.05 * n
    return state


def conv(state: State, key: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], **options)


def norm(state: State, key: str, x: Tensor, groups: int) -> Tensor:
    """Group norm by its definition."""
    b, c, h, w = x.shape
    parts = x.reshape(b, groups, -1)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, correction=0, keepdim=True)
    y = ((parts - mean) / torch.sqrt(variance + 1e-6)).reshape(b, c, h, w)
    return y * state[f"{key}.weight"].view(1, -1, 1, 1) + state[f"{key}.bias"].view(1, -1, 1, 1)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def resnet(state: State, key: str, x: Tensor, groups: int) -> Tensor:
    y = conv(state, f"{key}.conv1", swish(norm(state, f"{key}.norm1", x, groups)), padding=1)
    y = conv(state, f"{key}.conv2", swish(norm(state, f"{key}.norm2", y, groups)), padding=1)
    if f"{key}.nin_shortcut.weight" in state:
        x = conv(state, f"{key}.nin_shortcut", x)
    return x + y


def attention(state: State, key: str, x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    y = norm(state, f"{key}.norm", x, groups)
    q, k, v = (conv(state, f"{key}.{part}", y).reshape(b, c, h * w) for part in "qkv")
    p = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * c**-0.5, dim=2)
    y = torch.einsum("bcj,bij->bci", v, p).reshape(b, c, h, w)
    return x + conv(state, f"{key}.proj_out", y)


def middle(state: State, key: str, x: Tensor, groups: int) -> Tensor:
    x = resnet(state, f"{key}.mid.block_1", x, groups)
    x = attention(state, f"{key}.mid.attn_1", x, groups)
    return resnet(state, f"{key}.mid.block_2", x, groups)


def halve(state: State, key: str, x: Tensor) -> Tensor:
    padded = torch.zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
    padded[:, :, :-1, :-1] = x
    return conv(state, f"{key}.conv", padded, stride=2)


def code_vectors(state: State, images: Tensor, scale: int, groups: int = 32) -> Tensor:
    """(b, h, w, dim) before quantisation; scale 0, 1, 2: 4, 8, 16 pixels a code."""
    x = conv(state, "enc.conv_in", (images - MEAN) / STD, padding=1)
    for level in range(3):
        for block in range(2):
            x = resnet(state, f"enc.down.{level}.block.{block}", x, groups)
        if level < 2:
            x = halve(state, f"enc.down.{level}.downsample", x)
    x = swish(norm(state, "enc.norm_out", middle(state, "enc", x, groups), groups))
    x = conv(state, "enc.conv_out", x, padding=1)
    for k in range(scale):
        means = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        x = means + halve(state, f"down_samplers.{k}.conv_down_sampler", x)
    return conv(state, "quantize.proj", x).permute(0, 2, 3, 1)


def nearest(state: State, vectors: Tensor) -> Tensor:
    """Codes (b, h * w) by exact distances in double precision."""
    flat = vectors.flatten(1, 2).double()
    return torch.cdist(flat, state["quantize.embed.weight"].double()[None]).argmin(2)


def paint(state: State, codes: Tensor, grid: tuple[int, int], scale: int, groups: int = 32) -> Tensor:
    key = f"decs.{2 - scale}"
    x = state["quantize.embed.weight"][codes].view(len(codes), *grid, -1).permute(0, 3, 1, 2)
    x = middle(state, key, conv(state, f"{key}.conv_in", x, padding=1), groups)
    for level in reversed(range(3 + scale)):
        x = resnet(state, f"{key}.up.{level}.block.0", x, groups)
        if f"{key}.up.{level}.attn.0.q.weight" in state:
            x = attention(state, f"{key}.up.{level}.attn.0", x, groups)
        if level:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = conv(state, f"{key}.up.{level}.upsample.conv", x, padding=1)
    x = conv(state, f"{key}.conv_out", swish(norm(state, f"{key}.norm_out", x, groups)), padding=1)
    return x * STD + MEAN
