"""Attention patterns, one file each: who sees whom (DESIGN: "Attention patterns are data")."""

from cogview.transformer.attention.causal import Causal, LeftPadded, Prefix
from cogview.transformer.attention.dense import Dense
from cogview.transformer.attention.emphasis import Emphasis
from cogview.transformer.attention.local import CrossResolution, Local, Windowed
from cogview.transformer.attention.pattern import Defined, View, Visibility
from cogview.transformer.attention.regions import MaskRegions
from cogview.transformer.attention.staircase import Staircase
from cogview.transformer.attention.three_region import Recent, ThreeRegion, sample_pivots
from cogview.transformer.attention.window import Window

__all__ = [
    "Causal",
    "CrossResolution",
    "Defined",
    "Dense",
    "Emphasis",
    "LeftPadded",
    "Local",
    "MaskRegions",
    "Prefix",
    "Recent",
    "Staircase",
    "ThreeRegion",
    "View",
    "Visibility",
    "Window",
    "Windowed",
    "sample_pivots",
]
