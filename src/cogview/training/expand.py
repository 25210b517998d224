"""Initialize a CogLM from a text-to-image model: the same weights, with embedding rows remapped.

CogView2 trained its CogLM from scratch. From a base model with the same tokenizers, the blocks and the
embeddings of codes and text tokens carry over; only control tokens and positions have to be learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.sequences import CogLMFormat, SequenceFormat

TOKENS, POSITIONS = "tokens.weight", "positions.weight"


def same_tokens(old: SequenceFormat, new: CogLMFormat) -> None:
    """Raise CogViewError unless both formats have the same codes, text tokens and grid, and the old one's
    texts are at least as long."""
    sizes = [
        (format.vocabulary.image_codes, format.vocabulary.text_pieces, format.grid) for format in (old, new)
    ]
    if sizes[0] != sizes[1] or old.kind != "text_to_image" or old.image_positions != "fixed":
        raise CogViewError(
            f"init: a CogLM of {sizes[1]} codes, text tokens and grid cannot start from {old.kind} of "
            f"{sizes[0]} with {old.image_positions} positions; it needs text_to_image with fixed positions"
        )
    if new.text_slots - 1 > len(old.text_positions()):
        raise CogViewError(
            f"init: texts of {new.text_slots} slots, the model in init has {old.text_slots}; "
            "lower format.text_slots"
        )


def token_rows(old: SequenceFormat, new: CogLMFormat) -> dict[int, int]:
    """Map of new ids to old ids: codes and text tokens stay, [BOI] is [BOI1], [BOE] and [BOC] are [ROI1], the
    end token is [EOI1]."""
    ids = {i: i for i in range(new.vocabulary.texts.stop)}
    roles = {new.begin: "[BOI1]", **dict.fromkeys(new.languages.values(), "[ROI1]")}
    roles |= {new.end: "[EOI1]"} if new.end is not None else {}
    return ids | {new.vocabulary.control(name): old.vocabulary.control(role) for name, role in roles.items()}


def position_rows(old: SequenceFormat, new: CogLMFormat) -> dict[int, int]:
    """Map of new positions to old ones: those of the text tokens, of [BOI] and of the codes."""
    text = dict(zip(range(new.text_slots - 1), old.text_positions().tolist(), strict=False))
    codes = dict(zip(new.code_positions().tolist(), old.code_positions().tolist(), strict=True))
    return text | {new.begin_position: int(old.code_positions()[0]) - 1} | codes


def expand_weights(
    old_state: Mapping[str, Tensor],
    new_state: Mapping[str, Tensor],
    old: SequenceFormat,
    new: CogLMFormat,
) -> dict[str, Tensor]:
    """The new model's weights; rows without a counterpart in the old model keep their values.

    Raises CogViewError if the architectures or the tokens differ.
    """
    same_tokens(old, new)
    maps = {TOKENS: token_rows(old, new), POSITIONS: position_rows(old, new)}
    weights = {}
    for name, new_value in new_state.items():
        old_value = old_state.get(name)
        same = slice(1 if name in maps else 0, None)  # the embeddings may differ in the number of rows
        if old_value is None or old_value.shape[same] != new_value.shape[same]:
            shape = "missing" if old_value is None else tuple(old_value.shape)
            raise CogViewError(
                f"init: {name} is {shape} there, the recipe's model has {tuple(new_value.shape)}"
            )
        weights[name] = _remapped(old_value, new_value, maps[name]) if name in maps else old_value
    return weights


def _remapped(old: Tensor, new: Tensor, rows: Mapping[int, int]) -> Tensor:
    """``new`` with its rows ``rows.keys()`` replaced by the rows ``rows.values()`` of ``old``."""
    remapped = new.clone()
    remapped[torch.tensor(list(rows))] = old[torch.tensor(list(rows.values()))]
    return remapped
