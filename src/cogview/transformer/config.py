"""The architecture and numerics of a transformer (CogView, sections 2.3 and 2.4; CogView2, section 3)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cogview.config import Config, validate
from cogview.errors import CogViewError

Norm = Literal["pre", "post", "sandwich"]
NormRelax = Literal["none", "token", "tensor"]
Numerics = Literal["fused", "written", "released"]


class TransformerConfig(Config):
    """Architecture of one transformer.

    norm: placement of the LayerNorms (figure 4a). norm_relax: PB-relaxed LayerNorm; ``token`` divides each
    token by its largest absolute value, ``tensor`` the whole tensor by one value as the released code does
    (then the rows of a batch influence each other slightly). attention_relax: alpha of equation 4, ``None``
    is off; for scores kept in half precision, so only with ``written`` numerics. embedding_gradient: factor
    on the gradient of the token embeddings (paper: 0.1). numerics: ``fused`` kernels (scores in float32, one
    multiply-add for the bias); ``written`` step by step in the tensors' dtype; ``released`` bit for bit like
    the released code (masked scores -10000, bias added separately). branch_gain: initial gain of the
    LayerNorm that ends a sandwich's branch (paper: 1); below 1 the residual stream starts near the
    embeddings, and small models learn faster. extra_positions: rows of a second table, for positions from
    ``max_positions`` on, which a finetuned model adds to its base's. decoder_from: from this index of a
    sequence on, attention has separate projections (CogView2's direct super-resolution: encoder and decoder
    in one stack that shares everything else).
    """

    kind: Literal["transformer"] = "transformer"
    layers: int = Field(ge=1, le=1024)
    hidden: int = Field(ge=1, le=1 << 17)
    heads: int = Field(ge=1, le=1 << 12)
    vocab_size: int = Field(ge=1, le=1 << 24)
    max_positions: int = Field(ge=1, le=1 << 24)
    ffn_multiple: int = Field(4, ge=1, le=64)
    norm: Norm = "sandwich"
    norm_relax: NormRelax = "token"
    attention_relax: float | None = Field(None, gt=0, allow_inf_nan=False)
    embedding_gradient: float = Field(1.0, ge=0, le=1)
    hidden_dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    epsilon: float = Field(1e-5, gt=0, allow_inf_nan=False)
    branch_gain: float = Field(1.0, gt=0, allow_inf_nan=False)
    numerics: Numerics = "fused"
    extra_positions: int = Field(0, ge=0, le=1 << 24)
    decoder_from: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _everything_does_something(self) -> Self:
        if self.attention_relax is not None and self.numerics != "written":
            raise ValueError(
                f"attention_relax {self.attention_relax:g} does nothing with numerics {self.numerics}; set "
                "numerics to written, or leave attention_relax out"
            )
        if self.branch_gain != 1 and self.norm != "sandwich":
            raise ValueError(
                f"branch_gain {self.branch_gain:g} is for Sandwich-LN and does nothing with norm {self.norm}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @classmethod
    def cogview_4b(cls) -> TransformerConfig:
        """CogView: 3,928,849,920 parameters, trained with the paper's precision policies."""
        return cls(
            layers=48,
            hidden=2560,
            heads=40,
            vocab_size=58240,
            max_positions=1089,
            attention_relax=32.0,
            numerics="written",
            embedding_gradient=0.1,
            hidden_dropout=0.1,
            attention_dropout=0.1,
        )

    @classmethod
    def cogview2_6b(cls) -> TransformerConfig:
        """CogView2's CogLM: 5,902,307,328 parameters, standard LayerNorm and attention."""
        return cls(
            layers=48,
            hidden=3072,
            heads=48,
            vocab_size=150010,
            max_positions=1024,
            norm_relax="none",
            hidden_dropout=0.1,
            attention_dropout=0.1,
        )


class ThreeRegionConfig(Config):
    """Three-region sparse attention (CogView, appendix B); it needs no weights of its own.

    window: tokens per block; times: blocks that a token sees, including its own; pivots: tokens sampled from
    earlier blocks, including the whole text, resampled for every layer and step. The defaults are the
    released ones, for 4,096 tokens; for the paper's 1,088 use 64, 4 and 256.
    """

    kind: Literal["three_region"] = "three_region"
    window: int = Field(128, ge=1, le=1 << 20)
    times: int = Field(6, ge=1, le=1 << 16)
    pivots: int = Field(768, ge=1, le=1 << 20)

    @classmethod
    def parse(cls, text: str, where: str = "--sparse") -> Self:
        """Parse ``WINDOW,TIMES,PIVOTS``; raises CogViewError naming ``where`` for anything else."""
        names, values = ("window", "times", "pivots"), text.split(",")
        if len(values) != len(names) or not all(value.strip().isdigit() for value in values):
            example = "WINDOW,TIMES,PIVOTS, such as 64,4,256"
            raise CogViewError(f"{where} {text}: write three whole numbers, {example}")
        return validate(cls, dict(zip(names, map(int, values), strict=True)), where)

    @property
    def span(self) -> int:
        """Tokens that the window spans."""
        return self.window * self.times


def _expand_name(value: object) -> object:
    return {"kind": value} if value == "three_region" else value


AttentionConfig = Annotated[Literal["causal"] | ThreeRegionConfig, BeforeValidator(_expand_name)]
