"""Types shared by all packages: token ids, callbacks and sampling parameters.

This module does not import PyTorch, so the command line checks its arguments without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PlainSerializer, model_serializer, model_validator

from cogview.config import Check, Config, option, validate
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from torch import Tensor

Ids = NDArray[np.int64]
Grid = tuple[int, int]  # rows, columns
Stream = tuple[int, int]  # seed and index of an image's random numbers
ProgressCallback = Callable[[int, int], None]  # done, total
StepCallback = Callable[[Sequence[int], "Tensor"], None]  # request indices, tokens so far
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Decoding = Literal["auto", "sequential", "jacobi"]
Resample = Literal["box", "bilinear", "bicubic", "lanczos"]
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

MAX_SEED = 2**63 - 1
# With the true codes LPIPS was .083, .066, .068, .076 for a detail of 0 (bicubic), 0.5, 0.75, 1.
DETAIL = 0.6  # default of upscaling
BEAMS = 4  # default of the beam search for captions
FEATHER = 4  # pixels inside a mask over which an edit is blended in


class SamplingParams(Config):
    """Sampling parameters.

    A parameter that is not set takes its value from the style, the task or the family when images are
    generated (:meth:`over`). Files and PNG entries call ``guidance_scale`` ``guidance`` and
    ``text_attention_bias`` ``emphasis``.

    Attributes:
        temperature: divides the logits; lower is more conservative.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: then keep the most likely tokens that together reach this probability; 1 or 0 keeps all.
        guidance_scale: scale of classifier-free guidance; 1 is off, higher values follow the prompt more
            closely at twice the cost.
        clusters: keep the k most likely clusters of image codes (CogView2, section 4.1); 0 turns cluster
            sampling off.
        cluster_temperature: divides the logits again inside a cluster.
        text_attention_bias: added to the attention scores towards the text (CogView2, section 4.2).
    """

    model_config = ConfigDict(populate_by_name=True)

    temperature: float = option(
        1.0, "Below 1 more conservative, above 1 more varied.", gt=0, allow_inf_nan=False
    )
    top_k: int = option(0, "Keep the k most likely tokens; 0: all.", ge=0)
    top_p: float = option(1.0, "Keep tokens up to this probability; 1 or 0: all.", ge=0, le=1)
    guidance_scale: float = option(
        1.0, "Above 1: closer to the prompt, in twice the time.", ge=0, allow_inf_nan=False, alias="guidance"
    )
    clusters: int = option(0, "Keep the k most likely clusters of codes; 0: off.", ge=0)
    cluster_temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    text_attention_bias: float = option(
        0.0, "Added to attention towards the text.", ge=-100, le=100, alias="emphasis"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, data: Any) -> Any:
        """Drop parameters that are None: they are not set."""
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, Mapping) else data

    @model_serializer
    def _by_alias(self) -> dict[str, Any]:
        fields = type(self).model_fields
        return {field.alias or name: getattr(self, name) for name, field in fields.items()}

    @classmethod
    def given(cls, **values: float | None) -> Self:
        """Parameters from the values that are not None; raises a CogViewError that names a wrong one."""
        return validate(cls, values, "sampling") if values else cls()

    def over(self, *defaults: SamplingParams) -> SamplingParams:
        """These parameters; those that are not set come from the first of ``defaults`` that sets them."""
        layers: tuple[SamplingParams, ...] = (*reversed(defaults), self)
        values = {name: getattr(layer, name) for layer in layers for name in layer.model_fields_set}
        return SamplingParams.model_construct(_fields_set=set(SamplingParams.model_fields), **values)

    def over_given(self, other: SamplingParams) -> SamplingParams:
        """The parameters that either sets; these take precedence over ``other``."""
        values = {name: getattr(layer, name) for layer in (other, self) for name in layer.model_fields_set}
        return SamplingParams.model_construct(_fields_set=set(values), **values)


def _partial(params: SamplingParams) -> dict[str, Any]:
    """As in ``family.json``: None for parameters that are not set."""
    names = {field.alias or name: name for name, field in SamplingParams.model_fields.items()}
    return {
        key: getattr(params, name) if name in params.model_fields_set else None for key, name in names.items()
    }


PartialParams = Annotated[SamplingParams, PlainSerializer(_partial)]


class SamplingOptions(TypedDict, total=False):
    """The fields of :class:`SamplingParams` as keyword arguments."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance_scale: float | None
    clusters: int | None
    cluster_temperature: float | None
    text_attention_bias: float | None


def check_seed(seed: int) -> int:
    """Return the seed; raises CogViewError if it is out of range."""
    if not 0 <= seed <= MAX_SEED:
        raise CogViewError(f"the seed {seed} is out of range; take one from 0 to {MAX_SEED}", field="seed")
    return seed


def check_device(name: str) -> str:
    """Return the name; raises CogViewError if it is not the name of a device."""
    if not DEVICES.fullmatch(name):
        raise CogViewError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps")
    return name


Device = Annotated[str, Check(check_device)]
Seed = Annotated[int | None, Check(check_seed)]
