"""The recipe of the transformer: its data, sequences, model, attention and validation."""

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
    """The transformer of a recipe; 0 takes the size that vocabulary and format need."""

    vocab_size: int = Field(0, ge=0)
    max_positions: int = Field(0, ge=0)


class FormatRecipe(Config):
    """The sequence format but for what the data decide (:class:`SequenceFormat` explains the fields).

    window: for super-resolution, rows and columns of codes of the part that is drawn at a time; None: as many
    as the data's small images have.
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
            raise ValueError("text_weight and image_weight are both 0: nothing would be learnt")
        if self.kind != "super_resolution":
            ours = {"window": None, "context_weight": 1.0, "context_positions": "own"}
            for name, usual in ours.items():
                if getattr(self, name) != usual:
                    raise ValueError(f"{name} belongs to super_resolution, but kind is {self.kind}")
        if self.end and self.kind != "image_to_text":
            raise ValueError(f"end is of a caption, but kind is {self.kind}")
        return self


class Validation(Config):
    """What is evaluated: ``items`` of a split with one caption each, ``batch_size`` at a time."""

    split: str = "val"
    items: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1)


class TransformerRecipe(Recipe):
    """A recipe for the transformer. ``data`` is a directory that ``cogview data build`` made.

    ``init`` may name a family ("pictogram"); its architecture is taken where ``model`` is left out. ``lora``
    trains an adapter of the model in ``init`` instead of the model itself.
    ``sources`` chooses some of its sources (None: all). ``softmax`` and ``padding_rows``: see
    ``objective.py``. ``pad_multiple`` rounds the length of a batch up, for GPUs. ``cell_weights``, rows of
    numbers of the grid's size, weighs the training loss by the code's place in the image: where the text
    decides little of an image's many nats, as in small faces, more weight there is learnt from sooner.
    ``attention: three_region`` trains with CogView's sparse attention (``ThreeRegionConfig`` has the sizes);
    as released, evaluation is causal all the same. ``rows_at_once``: a batch's sequences go through the model
    in groups of this size and of similar length, so that short ones are not padded to the longest. The loss
    is the same.
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
            raise ValueError(f"samples are pictures, but format.kind is {self.format.kind}")
        return self

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.padding_rows and self.softmax != "full":
            raise ValueError("padding_rows take part in the full softmax only; set softmax to full")
        return self

    @model_validator(mode="after")
    def _sees(self) -> Self:
        if self.attention != "causal" and self.format.visibility != "causal":
            raise ValueError("attention three_region is causal, but format.visibility is prefix")
        if self.attention != "causal" and self.rows_at_once:
            raise ValueError("rows_at_once is for attention causal; leave it out, or the attention")
        return self

    @model_validator(mode="after")
    def _starts(self) -> Self:
        if self.init is None and (self.model is None or self.lora is not None):
            missing = "model: missing" if self.model is None else "lora adapts a model: name it as init"
            raise ValueError(f"{missing} (there is no init to start from)")
        return self
