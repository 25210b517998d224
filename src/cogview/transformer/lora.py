"""LoRA: low-rank adaptation of a transformer (Hu et al., 2021).

A linear layer W (out, in) becomes W + alpha / rank * B A with A (rank, in) and B (out, rank). W is frozen and
B starts at zero, so that training starts from the base model exactly. For generation the product is merged
into W, at no extra cost.

On disk an adapter is a directory: ``lora.json`` (:class:`AdapterConfig`) and ``lora.safetensors`` (names as
in peft: ``blocks.0.attention.qkv.lora_A.weight``). It records a fingerprint of its base weights and is
rejected for any others, with which it would generate noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.config import Config, read_json
from cogview.errors import CogViewError
from cogview.tensors import load_tensors

CONFIG, WEIGHTS = "lora.json", "lora.safetensors"
Target = Literal["attention.qkv", "attention.out", "mlp.up", "mlp.down"]
TARGETS: tuple[Target, ...] = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")


class LoRAConfig(Config):
    """Configuration of an adapter; ``targets`` are linear layers of every block.

    ``alpha / rank`` scales the update, so that ``alpha`` can be kept when the rank changes; ``dropout`` is
    applied to the input of the low-rank path.
    """

    rank: int = Field(8, ge=1, le=4096)
    alpha: float = Field(16.0, gt=0, allow_inf_nan=False)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[Target, ...] = Field(TARGETS, min_length=1)

    @property
    def scale(self) -> float:
        """The factor on B A."""
        return self.alpha / self.rank


class AdapterConfig(LoRAConfig):
    """``lora.json``. ``base`` is :func:`fingerprint` of the weights the adapter was trained on."""

    format: Literal[1] = 1
    base: str


class LoRALinear(nn.Module):
    """A linear layer with a parallel low-rank path; it replaces the layer in the block."""

    def __init__(self, base: nn.Linear, config: LoRAConfig) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, config.scale, config.dropout
        self.lora_A = nn.Parameter(base.weight.new_empty(config.rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as in nn.Linear

    @property
    def weight(self) -> Tensor:
        """The merged weight, (out, in)."""
        return self.base.weight + self.scale * (self.lora_B @ self.lora_A)

    @property
    def bias(self) -> Tensor:
        """The base layer's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        low = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)
        output: Tensor = self.base(x) + self.scale * F.linear(low, self.lora_B)
        return output


def layers(model: nn.Module, targets: tuple[Target, ...] = TARGETS) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every target layer in a transformer, with or without an adapter."""
    for name, module in model.named_modules():
        if name.endswith(tuple(f".{target}" for target in targets)):
            yield name, module


def attach(model: nn.Module, config: LoRAConfig) -> None:
    """Add adapters to the target layers of ``model``, in place; its outputs do not change yet."""
    for name, layer in list(layers(model, config.targets)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoRALinear(cast(nn.Linear, layer), config))


def detach(model: nn.Module, merge: bool = True) -> None:
    """Remove the adapters from ``model``, in place; ``merge`` adds them to the weights."""
    for name, layer in list(layers(model)):
        if isinstance(layer, LoRALinear):
            if merge:
                layer.base.weight.data.copy_(layer.weight.detach())
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base)


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The (name, parameter) pairs of an adapter."""
    for name, parameter in model.named_parameters():
        if name.endswith((".lora_A", ".lora_B")):
            yield name, parameter


def fingerprint(model: nn.Module, targets: tuple[Target, ...] = TARGETS) -> str:
    """16 hex digits of a hash of the base weights of ``targets`` in float16, in which they are stored."""
    digest = hashlib.sha256()
    for name, layer in sorted(layers(model, targets), key=lambda pair: pair[0]):
        weight = layer.base.weight if isinstance(layer, LoRALinear) else cast(Tensor, layer.weight)
        digest.update(name.encode() + weight.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_adapter(model: nn.Module, config: LoRAConfig, directory: str | Path) -> None:
    """Write the adapters of ``model`` with a fingerprint of its base weights."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.weight": value.detach().cpu().contiguous() for name, value in adapter_parameters(model)
    }
    adapter = AdapterConfig(**config.model_dump(), base=fingerprint(model, config.targets))
    part = directory / f"{WEIGHTS}.part"
    save_file(tensors, part)
    (directory / CONFIG).write_text(adapter.model_dump_json(indent=2) + "\n", encoding="utf-8")
    part.replace(directory / WEIGHTS)


def apply_adapter(model: nn.Module, directory: str | Path, strength: float = 1.0) -> str:
    """Merge an adapter, scaled by ``strength``, into the weights of ``model``; returns the adapter's hash.

    Raises CogViewError if it is damaged or was trained on other weights.
    """
    directory = Path(directory)
    config = read_json(AdapterConfig, directory / CONFIG)
    targets = dict(layers(model, config.targets))
    pairs = _read(directory / WEIGHTS, targets, config.rank)
    if fingerprint(model, config.targets) != config.base:
        raise CogViewError(f"{directory} was trained on another model; give the model it started from")
    with torch.no_grad():
        for name, (down, up) in pairs.items():
            weight = cast(Tensor, targets[name].weight)
            weight += (strength * config.scale * (up @ down)).to(weight)
    return adapter_hash(directory)


def adapter_hash(directory: str | Path) -> str:
    """SHA-256, in hexadecimal, of an adapter's two files."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (Path(directory) / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read(path: Path, targets: dict[str, nn.Module], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """A (rank, in) and B (out, rank) of every target, checked against the layers' shapes."""
    tensors = load_tensors(path)
    expected: dict[str, tuple[int, ...]] = {}
    for name, layer in targets.items():
        out, inputs = cast(Tensor, layer.weight).shape
        expected[f"{name}.lora_A.weight"], expected[f"{name}.lora_B.weight"] = (rank, inputs), (out, rank)
    wrong = sorted(expected.keys() ^ tensors.keys()) or sorted(
        name for name, shape in expected.items() if tuple(tensors[name].shape) != shape
    )
    if wrong:
        raise CogViewError(f"{path}: {wrong[0]} does not fit this model; give the model it started from")
    return {
        name: (tensors[f"{name}.lora_A.weight"].float(), tensors[f"{name}.lora_B.weight"].float())
        for name in targets
    }
