"""Sequence formats: the tokens that the transformer reads, their positions and their loss weights.

Every task of both papers is a format: CogView's three (``cogview``, sections 2.1, 3.1 and 3.2), CogLM's
(``coglm``, CogView2 section 3.1), and those of CogView2's two super-resolution models (``super_resolution``,
section 3.3). ``masks`` samples the regions that CogLM is trained to fill (section 3.2). ``protocols`` defines
the interfaces that the formats implement.
"""

from cogview.sequences.coglm import CogLMFormat, CogLMSequence
from cogview.sequences.cogview import SequenceFormat, collate, recounted_positions
from cogview.sequences.protocols import CaptionFormat, Format, ImageFormat, Prompt, Sequence, of_type
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat

__all__ = [
    "CaptionFormat",
    "CogLMFormat",
    "CogLMSequence",
    "DirectFormat",
    "Format",
    "ImageFormat",
    "IterativeFormat",
    "Prompt",
    "Sequence",
    "SequenceFormat",
    "collate",
    "of_type",
    "recounted_positions",
]
