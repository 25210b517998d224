"""The recorded runs of the released transformer, and its algorithm in a few lines of PyTorch."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from cogview.importers.cogview1 import infer_config, rename
from cogview.transformer.attention import ThreeRegion
from cogview.transformer.model import Transformer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"
HEADS = 4  # of both tiny models


def recorded(name: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / f"{name}.safetensors")


def facts(name: str) -> dict[str, object]:
    data: dict[str, object] = json.loads((FIXTURES / f"{name}.json").read_text())
    return data


def state_dict(name: str) -> dict[str, Tensor]:
    return {rename(key): tensor for key, tensor in recorded(name).items()}


def build(state: dict[str, Tensor], released: bool = True, **changes: object) -> Transformer:
    config = infer_config(state, HEADS, released)
    model = Transformer(config.model_copy(update=changes)).eval()
    model.load_state_dict(state)
    return model


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a.float() - b.float()).abs().max().item()


def dense(name: str) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the states between layers, for the inputs of a dense run."""
    state = state_dict("model_a")
    if name == "dense_a_nosandwich":
        state = {key: tensor for key, tensor in state.items() if "norm_out" not in key}
    model = build(state)
    if name == "dense_a_fp16cpu":
        model = model.half()
    inputs, states = recorded(name), list[Tensor]()
    with torch.no_grad():
        hidden = model(inputs["input_ids"], inputs["position_ids"], record=states)
        return model.logits(hidden), states


def sparse() -> tuple[ThreeRegion, dict[str, Tensor]]:
    """The recorded sparse training run, and its pattern with the pivots that were drawn."""
    run, settings = recorded("sparse_train_a"), facts("model_a")["config"]
    assert isinstance(settings, dict)
    pivots = torch.stack([run[f"pivot_idx.{layer}"] for layer in range(3)])
    return ThreeRegion(settings["query_window"], settings["key_window_times"], pivots), run


DENSE = ("dense_a", "dense_a_single", "dense_a_nosandwich", "dense_a_fp16cpu")


def released_layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    largest = x.abs().max() / 8
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.layer_norm(x / largest, weight.shape, weight, bias, 1e-5)


def released_logits(state: dict[str, Tensor], ids: Tensor, positions: Tensor) -> Tensor:
    """Logits (b, n, v) of the released transformer, causal, in its order of operations; nothing of ours is
    called, only the weights have our names."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def linear_then_bias(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"]) + state[f"{name}.bias"]

    def after(y: Tensor, name: str) -> Tensor:
        return released_layer_norm(y, state, name) if f"{name}.weight" in state else y

    x = F.embedding(ids, state["tokens.weight"]) + F.embedding(positions, state["positions.weight"])
    batch, length, hidden = x.shape
    mask = torch.ones(length, length, dtype=x.dtype).tril()
    layer = 0
    while f"blocks.{layer}.attention.qkv.weight" in state:
        name = f"blocks.{layer}"
        y = linear(released_layer_norm(x, state, f"{name}.attention_branch.norm_in"), f"{name}.attention.qkv")
        query, key, value = (
            part.view(batch, length, HEADS, hidden // HEADS).permute(0, 2, 1, 3) for part in y.chunk(3, -1)
        )
        scores = torch.matmul(query / math.sqrt(hidden // HEADS), key.transpose(-1, -2))
        scores = torch.mul(scores, mask) - 10000.0 * (1.0 - mask)
        context = torch.matmul(F.softmax(scores, dim=-1), value).permute(0, 2, 1, 3).contiguous()
        y = linear_then_bias(context.view(batch, length, hidden), f"{name}.attention.out")
        x = x + after(y, f"{name}.attention_branch.norm_out")
        y = linear(released_layer_norm(x, state, f"{name}.mlp_branch.norm_in"), f"{name}.mlp.up")
        y = 0.5 * y * (1.0 + torch.tanh(0.7978845608028654 * y * (1.0 + 0.044715 * y * y)))
        x = x + after(linear_then_bias(y, f"{name}.mlp.down"), f"{name}.mlp_branch.norm_out")
        layer += 1
    return F.linear(released_layer_norm(x, state, "norm"), state["tokens.weight"])
