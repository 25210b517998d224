"""Which combinations are withheld from training, by hashes of names: never different between builds."""

from __future__ import annotations

from sources.drawing import fraction
from sources.styles import HOUSE, STYLES

SAME_SHAPES = {"fluent-3d": "fluent-emoji"}  # near-duplicate drawings are withheld together
STYLE_SHARE, COLOUR_SHARE, CONCEPT_SHARE, VALIDATION = 0.06, 0.1, 0.02, 0.01


def withheld_style(subject: str, style: str) -> bool:
    """Whether a thing (its id, or the concept of what is no thing) is withheld in this style."""
    return style != HOUSE and fraction("cs", subject, SAME_SHAPES.get(style, style)) < STYLE_SHARE


def withheld_colour(subject: str, colour: str) -> bool:
    """Whether a thing recoloured to this colour is withheld, and the colour unsaid of what has it anyway.

    The natural colours of house drawings are said all the same: prompts of withheld pairs leave them out.
    """
    return fraction("cc", subject, colour) < COLOUR_SHARE


def drawing_split(subject: str, style: str, house: bool, rare: bool) -> str:
    """The split of a drawing as it is: ``style``, ``test_concept``, ``test_comp`` or ``train``."""
    if STYLES[style].withheld:
        return "style"
    if rare:
        return "test_concept"
    return "test_comp" if not house and withheld_style(subject, style) else "train"
