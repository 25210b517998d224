"""cogview: generate with, train and serve autoregressive text-to-image models.

    >>> import cogview
    >>> model = cogview.from_pretrained("pictogram")
    >>> image = model.generate("a blue monster with round eyes", seed=7)[0]

Names are imported on first use, so ``import cogview`` does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cogview.config import Config as Config
    from cogview.errors import CogViewError as CogViewError
    from cogview.errors import OutOfMemory as OutOfMemory
    from cogview.errors import UnsupportedTask as UnsupportedTask
    from cogview.pipelines.base import Caption as Caption
    from cogview.pipelines.base import GeneratedImage as GeneratedImage
    from cogview.pipelines.cogview import CogView as CogView
    from cogview.pipelines.cogview2 import CogView2 as CogView2
    from cogview.pipelines.model import Pipeline as Pipeline
    from cogview.pipelines.sheets import contact_sheet as contact_sheet
    from cogview.sequences import SequenceFormat as SequenceFormat
    from cogview.tokenizers.text import TextTokenizer as TextTokenizer
    from cogview.tokenizers.vqvae import ImageTokenizer as ImageTokenizer
    from cogview.transformer.model import Transformer as Transformer
    from cogview.transformer.model import TransformerConfig as TransformerConfig
    from cogview.types import SamplingParams as SamplingParams
    from cogview.vocabulary import Vocabulary as Vocabulary

_HOMES = {
    "Caption": "cogview.pipelines.base",
    "CogView": "cogview.pipelines.cogview",
    "CogView2": "cogview.pipelines.cogview2",
    "CogViewError": "cogview.errors",
    "Config": "cogview.config",
    "GeneratedImage": "cogview.pipelines.base",
    "ImageTokenizer": "cogview.tokenizers.vqvae",
    "OutOfMemory": "cogview.errors",
    "Pipeline": "cogview.pipelines.model",
    "SamplingParams": "cogview.types",
    "SequenceFormat": "cogview.sequences",
    "TextTokenizer": "cogview.tokenizers.text",
    "Transformer": "cogview.transformer.model",
    "TransformerConfig": "cogview.transformer.model",
    "UnsupportedTask": "cogview.errors",
    "Vocabulary": "cogview.vocabulary",
    "contact_sheet": "cogview.pipelines.sheets",
}

__all__ = ["__version__", "from_pretrained", *_HOMES]  # noqa: PLE0604 - all names are strings


def from_pretrained(name: str = "pictogram", **options: Any) -> Pipeline:
    """Load a model family of any kind by name or directory.

    ``options`` are those of :meth:`cogview.pipelines.model.Pipeline.from_pretrained`: ``device``,
    ``precision``, ``deterministic``, ``decoding``, ``lora``, ``lora_strength``, ``sparse``.
    """
    pipeline: Pipeline = __getattr__("Pipeline").from_pretrained(name, **options)
    return pipeline


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from cogview._moved import old_name

        return old_name(name)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


importlib.import_module("cogview._moved")
