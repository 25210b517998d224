"""Attention patterns, one file each: who sees whom (DESIGN: "Attention patterns are data")."""

from cogview.transformer.attention.causal import Causal
from cogview.transformer.attention.dense import Dense
from cogview.transformer.attention.emphasis import Emphasis
from cogview.transformer.attention.pattern import View, Visibility
from cogview.transformer.attention.prefix import Prefix
from cogview.transformer.attention.regions import MaskRegions
from cogview.transformer.attention.staircase import Staircase
from cogview.transformer.attention.three_region import ThreeRegion, sample_pivots

__all__ = [
    "Causal",
    "Dense",
    "Emphasis",
    "MaskRegions",
    "Prefix",
    "Staircase",
    "ThreeRegion",
    "View",
    "Visibility",
    "sample_pivots",
]
