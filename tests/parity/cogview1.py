"""The recorded runs of the released transformer, and how far ours is from them.

``python -m tests.parity.cogview1`` prints, as JSON, the largest difference of each run that is reproduced bit
for bit where PyTorch computes with the same kernels (AVX2) as when it was recorded.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

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


def main() -> None:
    differences = {name: largest_difference(dense(name)[0], recorded(name)["logits"]) for name in DENSE}
    for i, state in enumerate(dense("dense_a")[1]):
        differences[f"dense_a hidden.{i}"] = largest_difference(state, recorded("dense_a")[f"hidden.{i}"])
    print(json.dumps({"kernels": torch.backends.cpu.get_cpu_capability(), "differences": differences}))


if __name__ == "__main__":
    main()
