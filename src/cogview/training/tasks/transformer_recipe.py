"""The recipe of the transformer: data, sequence format, model, attention and validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cogview.config import Config
from cogview.data.loader import Mixture
from cogview.training.objective import Softmax
from cogview.training.recipe import Recipe
from cogview.training.sample_sheet import Samples
from cogview.transformer.config import AttentionConfig, TransformerConfig
from cogview.transformer.lora import LoRAConfig


class Architecture(TransformerConfig):
    """The architecture in a recipe; 0 stands for the size that vocabulary and format need."""

    vocab_size: int = Field(0, ge=0)
    max_positions: int = Field(0, ge=0)


class FormatRecipe(Config):
    """The sequence format except what the data determine (:class:`SequenceFormat` explains the fields).

    window: for super-resolution, rows and columns of codes of the part that is generated at a time (default:
    those of the data's low-resolution images).
    """

    kind: Literal["text_to_image", "image_to_text", "super_resolution"] = "text_to_image"
    window: tuple[PositiveInt, PositiveInt] | None = None
    text_slots: int = Field(64, ge=1)
    image_positions: Literal["index", "fixed"] = "fixed"
    visibility: Literal["causal", "prefix"] = "causal"
    size: str = "[BASE]"
    end: str | None = None
    text_weight: float = Field(1.0, ge=0)
    image_weight: float = Field(1.0, ge=0)
    context_weight: float = Field(1.0, ge=0)
    context_positions: Literal["own", "aligned"] = "own"
    weighting: Literal["target", "released"] = "target"

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.text_weight and not self.image_weight:
            raise ValueError("text_weight and image_weight are both 0: nothing would be learned")
        if self.kind != "super_resolution":
            defaults = {"window": None, "context_weight": 1.0, "context_positions": "own"}
            for name, default in defaults.items():
                if getattr(self, name) != default:
                    raise ValueError(f"{name} belongs to super_resolution, but kind is {self.kind}")
        if self.end and self.kind != "image_to_text":
            raise ValueError(f"end is for captions, but kind is {self.kind}")
        return self


class Validation(Config):
    """Validation data: ``items`` of a split with one caption each, in batches of ``batch_size``."""

    split: str = "val"
    items: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1)


class TransformerRecipe(Recipe):
    """A recipe for the transformer. ``data`` is a directory written by ``cogview data build``.

    ``init`` may name a family ("pictogram"), whose architecture is used if ``model`` is omitted. ``lora``
    trains an adapter of the model in ``init`` instead of the model. ``sources`` selects some of the data's
    sources (None: all). ``softmax`` and ``padding_rows``: see ``objective.py``. ``pad_multiple`` rounds up
    the length of a batch, for GPUs. ``cell_weights``, rows of numbers of the grid's size, weights the
    training loss by the code's position in the image, so that regions where the text determines little of the
    many nats, such as small faces, are learned sooner. ``attention: three_region`` trains with CogView's
    sparse attention (``ThreeRegionConfig`` has the sizes); as released, evaluation is causal.
    ``rows_at_once``: the sequences of a batch are processed in groups of this size with similar lengths, so
    that short ones are not padded to the longest; the loss is the same.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = Recipe.CHANGEABLE | {"validation", "samples"}

    task: Literal["transformer"]
    data: Path
    split: str = "train"
    sources: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    mixture: Mixture = Mixture()
    format: FormatRecipe = FormatRecipe()
    model: Architecture | None = None
    lora: LoRAConfig | None = None
    attention: AttentionConfig = "causal"
    softmax: Softmax = "region"
    padding_rows: bool = False
    pad_multiple: int = Field(1, ge=1)
    rows_at_once: int | None = Field(None, ge=1)
    validation: Validation = Validation()
    samples: Samples | None = None
    cell_weights: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] | None = None

    @model_validator(mode="after")
    def _draws(self) -> Self:
        if self.samples and self.format.kind != "text_to_image":
            raise ValueError(f"samples are images, but format.kind is {self.format.kind}")
        return self

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.padding_rows and self.softmax != "full":
            raise ValueError("padding_rows needs the full softmax; set softmax to full")
        return self

    @model_validator(mode="after")
    def _sees(self) -> Self:
        if self.attention != "causal" and self.format.visibility != "causal":
            raise ValueError("attention three_region is causal, but format.visibility is prefix")
        if self.attention != "causal" and self.rows_at_once:
            raise ValueError("rows_at_once is for attention causal; leave out one of the two")
        return self

    @model_validator(mode="after")
    def _starts(self) -> Self:
        if self.init is None and (self.model is None or self.lora is not None):
            missing = "model: missing" if self.model is None else "lora adapts a model: give it as init"
            raise ValueError(f"{missing} (there is no init to start from)")
        return self
