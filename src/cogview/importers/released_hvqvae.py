"""The released image tokenizer of CogView2 (``ice_image.pt``) as a ``HierarchicalTokenizer``.

Its keys are ``enc.*``, ``down_samplers.{0,1}.*``, ``quantize.*`` and ``decs.{0,1,2}.*``, in the file under
``module``; 329 tensors, 102.6 M numbers. Sizes are read from the tensors: a smaller one is read too.
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
OPTIONAL = ("quantizer.average", "quantizer.cluster_size")  # of training only


def rename(key: str) -> str:
    """Our name of a released key.

    Raises:
        CogViewError: the key is none of the released tokenizer's.
    """
    part, _, rest = key.removeprefix("module.").partition(".")
    if part not in PARTS or not rest:
        raise CogViewError(f"unexpected key {key!r} in the image tokenizer; is this icetk's ice_image.pt?")
    return f"{PARTS[part]}.{BUFFERS.get(rest, rest) if part == 'quantize' else rest}"


def released_config(state: Mapping[str, Tensor], image_size: int = 160) -> HierarchicalConfig:
    """The configuration a renamed state dict fits.

    Raises:
        CogViewError: a tensor that tells a size is missing or has another number of dimensions.
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
    """How many parts with a number in their name there are."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def _multipliers(state: Mapping[str, Tensor], prefix: str, channels: int) -> tuple[int, ...]:
    """Each level's width over ``channels``."""
    levels = _count(state, re.escape(prefix) + r"\.(\d{1,3})\.")
    return tuple(state[f"{prefix}.{i}.block.0.conv1.weight"].shape[0] // channels for i in range(levels))


def _attention(state: Mapping[str, Tensor], decoder: int) -> tuple[int, ...]:
    """The levels of a decoder that attend to all positions."""
    pattern = re.compile(rf"decoders\.{decoder}\.up\.(\d+)\.attn\.")
    return tuple(sorted({int(found[1]) for name in state if (found := pattern.match(name))}))


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
            found, wanted = tuple(tensor.shape), tuple(expected[name])
            raise CogViewError(f"the image tokenizer's {name} is {found}, expected {wanted}")
        if not tensor.isfinite().all():
            raise CogViewError(f"the image tokenizer's {name} holds a number that is not finite")
    return model.load({name: tensor.float() for name, tensor in state.items()})


def read_hvqvae(path: Path, image_size: int = 160) -> HierarchicalTokenizer:
    """The tokenizer in ``ice_image.pt``, read without running anything in it; CogViewError names the file."""
    try:
        return import_hvqvae(load_weights(path), image_size)
    except CogViewError as error:
        said = str(error)
        raise CogViewError(said if said.startswith(str(path)) else f"{path}: {said}") from None
