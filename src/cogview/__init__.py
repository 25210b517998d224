"""cogview: autoregressive text-to-image models, to draw with, to train and to serve.

    >>> from cogview import CogView
    >>> model = CogView.from_pretrained("pictogram")
    >>> picture = model.generate("a blue monster with round eyes", seed=7)[0]

Names are looked up when they are first used, so ``import cogview`` does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cogview.config import Config as Config
    from cogview.errors import CogViewError as CogViewError
    from cogview.pipeline import CogView as CogView
    from cogview.sequences import SequenceFormat as SequenceFormat
    from cogview.tokenizers.text import TextTokenizer as TextTokenizer
    from cogview.tokenizers.vqvae import ImageTokenizer as ImageTokenizer
    from cogview.transformer.model import Transformer as Transformer
    from cogview.transformer.model import TransformerConfig as TransformerConfig
    from cogview.vocabulary import Vocabulary as Vocabulary

_HOMES = {
    "CogView": "cogview.pipeline",
    "CogViewError": "cogview.errors",
    "Config": "cogview.config",
    "ImageTokenizer": "cogview.tokenizers.vqvae",
    "SequenceFormat": "cogview.sequences",
    "TextTokenizer": "cogview.tokenizers.text",
    "Transformer": "cogview.transformer.model",
    "TransformerConfig": "cogview.transformer.model",
    "Vocabulary": "cogview.vocabulary",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - all names are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cogview' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
