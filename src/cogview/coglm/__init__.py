"""CogLM's sequences (CogView2, sections 3.1 and 3.2): what is context, what lies in mask regions.

One model draws, fills holes and describes, because of which tokens of a sequence are masked. ``format``
builds the sequences, ``regions`` draws the patches that are masked, ``released`` makes the rows of the
published training script, token for token.
"""

from cogview.coglm.format import CogLMFormat, CogLMSequence

__all__ = ["CogLMFormat", "CogLMSequence"]
