"""Attention patterns, one file each but for the causal ones (``pattern``): who sees whom, as data."""

from cogview.transformer.attention.dense import Dense
from cogview.transformer.attention.emphasis import Emphasis
from cogview.transformer.attention.local import CrossResolution, Local, Windowed
from cogview.transformer.attention.pattern import Causal, Defined, LeftPadded, Prefix, View, Visibility
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
