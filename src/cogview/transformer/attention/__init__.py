"""Attention patterns as data, one per file except for the causal ones (``pattern``)."""

from cogview.transformer.attention.block_causal import BlockCausal
from cogview.transformer.attention.dense import Dense
from cogview.transformer.attention.local import CrossResolution, Local, Windowed
from cogview.transformer.attention.pattern import (
    Causal,
    LeftPadded,
    Prefix,
    ReferencePattern,
    View,
    Visibility,
)
from cogview.transformer.attention.regions import MaskRegions
from cogview.transformer.attention.text_bias import TextAttentionBias
from cogview.transformer.attention.three_region import Recent, ThreeRegion, sample_pivots
from cogview.transformer.attention.window import Window

__all__ = [
    "BlockCausal",
    "Causal",
    "CrossResolution",
    "Dense",
    "LeftPadded",
    "Local",
    "MaskRegions",
    "Prefix",
    "Recent",
    "ReferencePattern",
    "TextAttentionBias",
    "ThreeRegion",
    "View",
    "Visibility",
    "Window",
    "Windowed",
    "sample_pivots",
]
