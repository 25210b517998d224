"""Attention patterns, one file each: who sees whom (DESIGN: "Attention patterns are data")."""

from cogview.transformer.attention.causal import Causal
from cogview.transformer.attention.dense import Dense
from cogview.transformer.attention.pattern import View, Visibility
from cogview.transformer.attention.prefix import Prefix
from cogview.transformer.attention.three_region import ThreeRegion, sample_pivots

__all__ = ["Causal", "Dense", "Prefix", "ThreeRegion", "View", "Visibility", "sample_pivots"]
