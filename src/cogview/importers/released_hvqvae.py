"""Imports the released image tokenizer of CogView2 (``ice_image.pt``) as a ``HierarchicalTokenizer``.

Its keys are ``enc.*``, ``down_samplers.{0,1}.*``, ``quantize.*`` and ``decs.{0,1,2}.*``, under ``module``;
329 tensors, 102.6 M parameters. Sizes are inferred from the tensors, so smaller models can be imported too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.importers.checkpoint import load_weights
from cogview.tokenizers.hvqvae import HierarchicalConfig, HierarchicalTokenizer

PARTS = {"enc": "encoder", "down_samplers": "samplers", "quantize": "quantizer", "decs": "decoders"}
BUFFERS = {"embed.weight": "codebook", "embed_avg": "average", "cluster_size": "cluster_size"}
OPTIONAL = ("quantizer.average", "quantizer.cluster_size")  # used only in training


def rename(key: str) -> str:
    """The name in ``HierarchicalTokenizer`` of a released key.

    Raises:
        CogViewError: the key is unknown.
    """
    part, _, rest = key.removeprefix("module.").partition(".")
    if part not in PARTS or not rest:
        raise CogViewError(f"unexpected key {key!r} in the image tokenizer; is this icetk's ice_image.pt?")
    return f"{PARTS[part]}.{BUFFERS.get(rest, rest) if part == 'quantize' else rest}"


def released_config(state: Mapping[str, Tensor], image_size: int = 160) -> HierarchicalConfig:
    """Infer the configuration from a state dict with renamed keys.

    Raises:
        CogViewError: a tensor is missing or has another number of dimensions.
    """
    try:
        channels = state["encoder.conv_in.weight"].shape[0]
        multipliers = _multipliers(state, "encoder.down", channels)
        decoders = tuple(
            _multipliers(state, f"decoders.{i}.up", channels)
            for i in range(_count(state, r"decoders\.(\d+)\."))
        )
        codes, dim = state["quantizer.codebook"].shape
        facts = {
            "image_size": image_size,
            "channels": channels,
            "multipliers": multipliers,
            "blocks": _count(state, r"encoder\.down\.0\.block\.(\d+)\."),
            "decoders": decoders,
            "attention": tuple(_attention(state, i) for i in range(len(decoders))),
            "features": state["encoder.conv_out.weight"].shape[0],
            "codes": codes,
            "code_dim": dim,
        }
    except KeyError as error:
        raise CogViewError(f"the image tokenizer lacks {error.args[0]}; is the file complete?") from None
    except (IndexError, ValueError, ZeroDivisionError):
        raise CogViewError("the image tokenizer's weights have another number of dimensions") from None
    return validate(HierarchicalConfig, facts, "the image tokenizer")


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """The number of modules with a numbered name that matches the pattern."""
    return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)


def _multipliers(state: Mapping[str, Tensor], prefix: str, channels: int) -> tuple[int, ...]:
    """The width of each level, in multiples of ``channels``."""
    levels = _count(state, re.escape(prefix) + r"\.(\d{1,3})\.")
    return tuple(state[f"{prefix}.{i}.block.0.conv1.weight"].shape[0] // channels for i in range(levels))


def _attention(state: Mapping[str, Tensor], decoder: int) -> tuple[int, ...]:
    """The levels of a decoder that have attention."""
    pattern = re.compile(rf"decoders\.{decoder}\.up\.(\d+)\.attn\.")
    return tuple(sorted({int(match[1]) for name in state if (match := pattern.match(name))}))


def import_hvqvae(released: Mapping[str, Tensor], image_size: int = 160) -> HierarchicalTokenizer:
    """A ``HierarchicalTokenizer`` with the weights of a released state dict.

    Raises:
        CogViewError: a key or shape is missing, extra or wrong.
    """
    state = {rename(key): tensor for key, tensor in released.items()}
    config = released_config(state, image_size)
    with torch.device("meta"):
        model = HierarchicalTokenizer(config)
    expected = {name: x.shape for name, x in model.state_dict().items() if name != "quantizer.usage"}
    for name in sorted(expected.keys() ^ state.keys()):
        if name not in OPTIONAL:
            fault = "lacks" if name in expected else "has one tensor too many,"
            raise CogViewError(f"the image tokenizer {fault} {name}; is this icetk's ice_image.pt?")
    for name, tensor in state.items():
        if tensor.shape != expected[name]:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name])}"
            raise CogViewError(f"the image tokenizer's {name} is {shapes}")
        if not tensor.isfinite().all():
            raise CogViewError(f"the image tokenizer's {name} holds a number that is not finite")
    return model.load({name: tensor.float() for name, tensor in state.items()})


def read_hvqvae(path: Path, image_size: int = 160) -> HierarchicalTokenizer:
    """Read the tokenizer in ``ice_image.pt`` without executing any code in it; raises CogViewError."""
    try:
        return import_hvqvae(load_weights(path), image_size)
    except CogViewError as error:
        message = str(error)
        raise CogViewError(message if message.startswith(str(path)) else f"{path}: {message}") from None
