"""Attention patterns, one file each: who sees whom (DESIGN: "Attention patterns are data")."""

from cogview.transformer.attention.causal import Causal
from cogview.transformer.attention.dense import Dense
from cogview.transformer.attention.pattern import View, Visibility
from cogview.transformer.attention.prefix import Prefix

__all__ = ["Causal", "Dense", "Prefix", "View", "Visibility"]
