"""Imports the released image tokenizer (``vqvae_hard_biggerset_011.pt``) as an ``ImageTokenizer``.

Its keys are ``enc_b.blocks.{0,2,4,6}``, ``dec.blocks.{0,2,4,6}`` and ``quantize_t.*`` with a codebook of
shape (dim, codes); some copies prefix every key with ``module.``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cogview.errors import CogViewError
from cogview.tokenizers.vqvae import RELEASED_MEAN, RELEASED_STD, ImageTokenizer, ImageTokenizerConfig

BUFFERS = {"embed": "codebook", "embed_avg": "average", "cluster_size": "cluster_size"}


def rename(key: str) -> str:
    """The name in ``ImageTokenizer`` of a released key.

    Raises:
        CogViewError: the key is unknown.
    """
    part, _, rest = key.removeprefix("module.").partition(".")
    if part == "enc_b":
        return "encoder." + rest.removeprefix("blocks.")
    if part == "dec":
        return "decoder." + rest.removeprefix("blocks.")
    if part == "quantize_t" and rest in BUFFERS:
        return "quantizer." + BUFFERS[rest]
    raise CogViewError(f"unexpected key {key!r} in the image tokenizer; is this CogView's vqvae file?")


def released_config(state: Mapping[str, Tensor], image_size: int = 256) -> ImageTokenizerConfig:
    """Infer the configuration from a state dict with renamed keys."""
    dim, codes = state["quantizer.codebook"].shape[1], state["quantizer.codebook"].shape[0]
    channels = tuple(state[f"encoder.{i}.weight"].shape[0] for i in (0, 2, 4))
    return ImageTokenizerConfig(
        architecture="paper",
        image_size=image_size,
        factors=(2, 2, 2),
        channels=channels,
        blocks=(0, 0, 0),
        codes=codes,
        code_dim=dim,
        mean=RELEASED_MEAN,
        std=RELEASED_STD,
    )


def import_vqvae(released: Mapping[str, Tensor], image_size: int = 256) -> ImageTokenizer:
    """An ``ImageTokenizer`` with the weights of a released state dict.

    Raises:
        CogViewError: a key or shape is missing, extra or wrong.
    """
    state = {rename(k): v.float() for k, v in released.items()}
    for name in ("quantizer.codebook", "quantizer.average"):
        if name not in state:
            raise CogViewError(f"the image tokenizer lacks {name!r}; is the file complete?")
    try:
        state |= {name: state[name].t().contiguous() for name in ("quantizer.codebook", "quantizer.average")}
        model = ImageTokenizer(released_config(state, image_size))
        model.load_state_dict(state | {"quantizer.usage": model.quantizer.usage})
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CogViewError(f"the image tokenizer's weights do not fit its architecture: {reason}") from None
    return model.eval()
