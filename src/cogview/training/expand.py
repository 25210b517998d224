"""From a model that only draws to a CogLM: the same weights, rows where the new sequences look for them.

CogView2 trained its CogLM from nothing. Where a base model with the same tokenizers is at hand, its blocks,
codes and words carry over; only control tokens and positions have to be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.sequences import CogLMFormat, SequenceFormat

TOKENS, POSITIONS = "tokens.weight", "positions.weight"


def same_tokens(old: SequenceFormat, new: CogLMFormat) -> None:
    """CogViewError unless both have the same codes, text tokens and grid, and the old one the longer
    texts."""
    sizes = [(form.vocabulary.image_codes, form.vocabulary.text_pieces, form.grid) for form in (old, new)]
    if sizes[0] != sizes[1] or old.kind != "text_to_image" or old.image_positions != "fixed":
        raise CogViewError(
            f"init: a CogLM of {sizes[1]} codes, pieces and grid cannot start from {old.kind} of {sizes[0]}"
            f" with {old.image_positions} positions; it takes text_to_image with fixed ones"
        )
    if new.text_slots - 1 > len(old.text_positions()):
        raise CogViewError(
            f"init: texts of {new.text_slots} slots, the model in init has {old.text_slots}; "
            "lower format.text_slots"
        )


def token_rows(old: SequenceFormat, new: CogLMFormat) -> dict[int, int]:
    """New id to old id: codes and text tokens stay, [BOI] is [BOI1], [BOE] and [BOC] are [ROI1], an end
    [EOI1]."""
    ids = {i: i for i in range(new.vocabulary.texts.stop)}
    roles = {new.begin: "[BOI1]", **dict.fromkeys(new.languages.values(), "[ROI1]")}
    roles |= {new.end: "[EOI1]"} if new.end is not None else {}
    return ids | {new.vocabulary.control(name): old.vocabulary.control(role) for name, role in roles.items()}


def position_rows(old: SequenceFormat, new: CogLMFormat) -> dict[int, int]:
    """New position to old: those of a text's tokens, of [BOI] and of the codes."""
    words = dict(zip(range(new.text_slots - 1), old.text_positions().tolist(), strict=False))
    codes = dict(zip(new.code_positions().tolist(), old.code_positions().tolist(), strict=True))
    return words | {new.begin_position: int(old.code_positions()[0]) - 1} | codes


def expand_weights(
    old_state: Mapping[str, Tensor],
    new_state: Mapping[str, Tensor],
    old: SequenceFormat,
    new: CogLMFormat,
) -> dict[str, Tensor]:
    """The new model's weights; rows that the old one has nothing for stay as they are.

    Raises CogViewError where the architectures or the tokens differ.
    """
    same_tokens(old, new)
    maps = {TOKENS: token_rows(old, new), POSITIONS: position_rows(old, new)}
    found = {}
    for name, value in new_state.items():
        given = old_state.get(name)
        same = slice(1 if name in maps else 0, None)  # of those two, the number of rows may differ
        if given is None or given.shape[same] != value.shape[same]:
            there = "missing" if given is None else tuple(given.shape)
            raise CogViewError(f"init: {name} is {there} there, the recipe's model has {tuple(value.shape)}")
        found[name] = _moved(given, value, maps[name]) if name in maps else given
    return found


def _moved(given: Tensor, value: Tensor, rows: Mapping[int, int]) -> Tensor:
    """``value`` with the rows that are keys of ``rows`` replaced by those of ``given`` that they name."""
    moved = value.clone()
    moved[torch.tensor(list(rows))] = given[torch.tensor(list(rows.values()))]
    return moved
