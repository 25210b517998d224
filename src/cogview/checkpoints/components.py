"""The components of a family in memory: both tokenizers and the transformers, loaded at first use."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch

from cogview.checkpoints.bundle import BASE, ModelBundle
from cogview.errors import CogViewError
from cogview.tokenizers.clusters import read_labels
from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.transformer.config import ThreeRegionConfig
from cogview.transformer.lora import apply_adapter
from cogview.transformer.model import Transformer
from cogview.transformer.storage import layers_dtype
from cogview.types import Decoding, Precision


def adapter_facts(adapter: tuple[Path, float], digest: str) -> dict[str, str | float]:
    """The provenance entry of an adapter: its directory's name, its hash and its strength."""
    directory, strength = adapter
    run = directory.parent if directory.name == "model" else directory
    return {"name": run.resolve().name, "hash": digest[:16], "strength": strength}


@dataclass
class Components:
    """A family's components and their inference settings.

    lora: the directory of an adapter of the base model, and its strength; sparse: three-region sparse
    attention for the base model; decoding: how batches are decoded.
    """

    bundle: ModelBundle
    device: torch.device
    precision: Precision = "fp32"
    deterministic: bool = False
    lora: tuple[Path, float] | None = None
    sparse: ThreeRegionConfig | None = None
    decoding: Decoding = "auto"
    _lora_facts: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Raise CogViewError if settings or components do not fit together; reads no transformer weights."""
        for name, value, kind in (
            ("precision", self.precision, Precision),
            ("decoding", self.decoding, Decoding),
        ):
            if value not in get_args(kind):
                raise CogViewError(
                    f"unknown {name} {value!r}; use one of {', '.join(get_args(kind))}", field=name
                )
        if self.deterministic and self.decoding == "jacobi" and self.device.type != "cpu":
            raise CogViewError(
                "deterministic mode decodes token by token on a GPU; use decoding auto or sequential",
                field="decoding",
            )
        if self.sparse is not None and self.decoding == "jacobi":
            raise CogViewError(
                "sparse attention decodes token by token; use decoding auto or sequential", field="decoding"
            )
        vocabulary = self.bundle.config.vocabulary
        for what, actual, expected in (
            ("image codes", self.image_tokenizer.codes, vocabulary.image_codes),
            ("text pieces", self.text_tokenizer.pieces, vocabulary.text_pieces),
        ):
            if actual != expected:
                raise CogViewError(
                    f"{self.bundle.directory}: the tokenizer has {actual} {what}, family.json says {expected}"
                )
        for role in self.bundle.config.roles:
            self.bundle.check(role)

    @cached_property
    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer."""
        return self.bundle.text_tokenizer()

    @cached_property
    def image_tokenizer(self) -> AnyImageTokenizer:
        """The image tokenizer, on the device."""
        return self.bundle.image_tokenizer().to(self.device)

    @cached_property
    def clusters(self) -> torch.Tensor | None:
        """(codes,) int64, the cluster of each image code; None if the family has no clusters."""
        name, codes = self.bundle.config.clusters, self.bundle.config.vocabulary.image_codes
        return None if name is None else read_labels(self.bundle.directory / name, codes).to(self.device)

    def transformer(self, role: str) -> Transformer:
        """Load the transformer of a role in the requested precision; the base model with its adapter."""
        model = self.bundle.transformer(role, self.device, layers_dtype(self.precision))
        if self.lora is not None and role == BASE:
            directory, strength = self.lora
            self._lora_facts = adapter_facts(self.lora, apply_adapter(model, directory, strength))
        return model

    @property
    def facts(self) -> dict[str, Any]:
        """The inference settings that may affect results; part of an image's provenance."""
        facts: dict[str, Any] = {
            "precision": self.precision,
            "deterministic": self.deterministic,
            "decoding": self.decoding,
        }
        facts |= {} if self.sparse is None else {"sparse": self.sparse.model_dump(mode="json")}
        return facts | ({"lora": self._lora_facts} if self._lora_facts else {})
