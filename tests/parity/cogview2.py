"""The recorded runs of CogView2's release, and its tiny CogLM."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from cogview.importers.cogview1 import infer_config, rename
from cogview.sequences import CogLMFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.transformer.model import Transformer
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview2"
HEADS = 4
PIECES = 349


@functools.cache
def recorded(name: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / f"{name}.safetensors")


def facts(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return data


@functools.cache
def form() -> CogLMFormat:
    """The release's sequences with the synthetic text tokenizer's 349 pieces."""
    vocabulary = Vocabulary(image_codes=20_000, text_pieces=PIECES, controls=COGVIEW2_CONTROLS, multiple=1)
    return CogLMFormat(vocabulary=vocabulary, text_slots=112, grid=(20, 20), image_start=512)


@functools.cache
def text_tokenizer() -> TextTokenizer:
    return TextTokenizer.from_file(FIXTURES / "ice_text_synthetic.model")


def coglm() -> Transformer:
    """The tiny CogLM, in evaluation mode."""
    state = {rename(name): tensor for name, tensor in recorded("coglm_tiny").items()}
    model = Transformer(infer_config(state, HEADS)).eval()
    model.load_state_dict(state)
    return model
