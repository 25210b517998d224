"""Sequence formats against the released rules and against sequences written out by hand."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cogview.errors import CogViewError
from cogview.sequences import Sequence, SequenceFormat, collate, recounted_positions
from cogview.vocabulary import CONTROLS, Vocabulary

FIXTURES = Path(__file__).parents[1] / "fixtures/cogview1"
V = Vocabulary(image_codes=10, text_pieces=20)
Kind = Literal["text_to_image", "image_to_text", "super_resolution"]


def tiny(kind: Kind = "text_to_image", **changes: object) -> SequenceFormat:
    fields: dict[str, object] = {"kind": kind, "vocabulary": V, "grid": (2, 2), "text_slots": 5}
    if kind == "super_resolution":
        fields["context_grid"] = (1, 2)
    return SequenceFormat.model_validate(fields | changes)


def words(sequence: Sequence) -> str:
    """The ids in the papers' notation: codes as numbers, pieces as letters, controls by name."""
    say = {"image": str, "text": lambda t: chr(ord("a") + t - V.texts.start), "control": V.name}
    return " ".join(say[V.kind(token)](token) for token in sequence.ids.tolist())


@pytest.mark.parametrize("positions", ["index", "fixed"])
def test_the_tokens_of_each_format(positions: str) -> None:
    def make(kind: Kind, **more: object) -> SequenceFormat:
        return tiny(kind, image_positions=positions, **more)

    drawn = make("text_to_image").training([0, 1], [1, 2, 3, 4])
    assert words(drawn) == "[ROI1] a b [BASE] [BOI1] 1 2 3 4 [EOI1]"
    told = make("image_to_text").training([0, 1], [1, 2, 3, 4])
    assert words(told) == "[BASE] [BOI1] 1 2 3 4 [EOI1] [ROI1] a b"
    ended = make("image_to_text", end="[SEP]").training([0, 1], [1, 2, 3, 4])
    assert words(ended) == "[BASE] [BOI1] 1 2 3 4 [EOI1] [ROI1] a b [SEP]"
    large = make("super_resolution").training([0, 1], [1, 2, 3, 4], [8, 9])
    assert words(large) == ("[ROI1] a b [BASE] [BOI1] 8 9 [EOI1] [ROI2] [POS0] [BASE] [BOI2] 1 2 3 4 [EOI2]")


def test_fixed_positions_written_out() -> None:
    drawn = tiny().training([0, 1], [1, 2, 3, 4])
    assert drawn.positions.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    told = tiny("image_to_text", end="[SEP]").training([0, 1], [1, 2, 3, 4])
    assert told.positions.tolist() == [5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]
    large = tiny("super_resolution").training([0, 1], [1, 2, 3, 4], [8, 9])
    assert large.positions.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 0, 1, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(("rule", "turn"), [("finetune", 0), ("inference", 8)])
def test_positions_start_again_at_the_second_region(rule: str, turn: int) -> None:
    form = tiny("super_resolution", image_positions="index", recount=rule)
    large = form.training([0, 1], [1, 2, 3, 4], [8, 9])
    assert large.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, turn, 1, 2, 3, 4, 5, 6, 7, 8]


def test_recount_equals_the_released_finetuning_rule() -> None:
    recorded = load_file(FIXTURES / "finetune_positions.safetensors")
    limit = json.loads((FIXTURES / "finetune_positions.json").read_text())["max_position_embeddings"]
    restart = Vocabulary.cogview().control("[ROI2]")
    for ids, expected in zip(recorded["data"], recorded["position_ids"], strict=True):
        np.testing.assert_array_equal(recounted_positions(ids, restart, "finetune", limit), expected)
    without = recounted_positions([1, 2, 3], restart, "inference")
    assert without.tolist() == [0, 1, 2]


def test_cogview_fills_its_1089_positions() -> None:
    form = SequenceFormat.cogview()
    longest = form.training(np.arange(form.text_limit), np.arange(1024))
    assert len(longest) == form.max_length == form.max_positions == 1089
    np.testing.assert_array_equal(longest.positions, np.arange(1089))


kinds = st.sampled_from(["text_to_image", "image_to_text", "super_resolution"])
arrangements = st.sampled_from(["index", "fixed"])
rules = st.sampled_from(["inference", "finetune"])
texts = st.lists(st.integers(0, 19), max_size=3)
pictures = st.lists(st.integers(0, 9), min_size=4, max_size=4)


@given(kinds, arrangements, rules, texts, pictures, st.booleans())
def test_prompt_and_continuation_are_the_training_sequence(
    kind: Kind, arrangement: str, rule: str, text: list[int], codes: list[int], prefix: bool
) -> None:
    """What is fed and where the generated tokens stand: both as the model saw them in training."""
    visibility = "prefix" if prefix else "causal"
    form = tiny(kind, image_positions=arrangement, recount=rule, visibility=visibility)
    context = [3, 4] if kind == "super_resolution" else []
    whole = form.training(text, codes, context)
    if kind == "image_to_text":
        prompt, generated = form.prompt(codes=codes), V.texts.start + np.array(text, dtype=np.int64)
        positions = form.text_positions()[: len(text)]
    else:
        prompt, generated = form.prompt(text, context), np.array(codes)
        positions = form.code_positions(len(text))
    n = len(prompt)
    np.testing.assert_array_equal(prompt.ids, whole.ids[:n])
    np.testing.assert_array_equal(prompt.positions, whole.positions[:n])
    np.testing.assert_array_equal(generated, whole.ids[n : n + len(generated)])
    np.testing.assert_array_equal(positions, whole.positions[n : n + len(generated)])
    assert prompt.prefix == whole.prefix <= n
    assert not prompt.weights.any()
    picture = whole.positions[np.isin(whole.ids, V.images)][-4:]
    np.testing.assert_array_equal(picture, form.code_positions(len(text)))
    assert whole.positions.max() < form.max_positions
    assert len(whole) <= form.max_length


@given(texts, texts, pictures)
def test_fixed_image_positions_do_not_depend_on_the_text(
    a: list[int], b: list[int], codes: list[int]
) -> None:
    form = tiny()
    tails = [form.training(text, codes).positions[-7:] for text in (a, b)]
    np.testing.assert_array_equal(*tails)


@pytest.mark.parametrize("kind", ["text_to_image", "image_to_text", "super_resolution"])
@pytest.mark.parametrize("arrangement", ["index", "fixed"])
@pytest.mark.parametrize("rule", ["inference", "finetune"])
def test_max_positions_is_reached(kind: Kind, arrangement: str, rule: str) -> None:
    form = tiny(kind, image_positions=arrangement, recount=rule)
    context = np.zeros(form.context_codes)
    longest = form.training(np.zeros(form.text_limit), np.zeros(4), context)
    assert len(longest) == form.max_length
    assert longest.positions.max() + 1 == form.max_positions


def test_weights_by_target_and_as_released() -> None:
    by_target = tiny(text_weight=5).training([0, 1], [1, 2, 3, 4])
    assert by_target.weights.tolist() == [0, 5, 5, 5, 5, 1, 1, 1, 1, 5]
    released = tiny(text_weight=5, weighting="released").training([0, 1], [1, 2, 3, 4])
    assert released.weights.tolist() == [0, 5, 5, 5, 5, 5, 1, 1, 1, 1]


def test_aligned_codes_stand_on_their_blocks() -> None:
    """2 x 2 codes over 4 x 4: each where the upper left one of its four stands; the rest is as it was."""
    more = Vocabulary(image_codes=30, text_pieces=20)
    sizes = {"grid": (4, 4), "context_grid": (2, 2), "vocabulary": more}
    own, aligned = (
        tiny("super_resolution", context_positions=way, **sizes).training([0, 1], range(10, 26), [1, 2, 3, 4])
        for way in ("own", "aligned")
    )
    assert own.ids.tolist() == aligned.ids.tolist()
    at = {int(token): int(position) for token, position in zip(aligned.ids, aligned.positions, strict=True)}
    assert [at[small] for small in (1, 2, 3, 4)] == [at[10 + block] for block in (0, 2, 8, 10)]
    assert aligned.positions.tolist()[:5] == own.positions.tolist()[:5]  # [ROI1] a b [BASE] [BOI1]
    assert aligned.positions.tolist()[10:] == own.positions.tolist()[10:]  # after [EOI1]
    assert at[more.control("[EOI1]")] == at[more.control("[EOI2]")]


def test_weights_of_what_is_given() -> None:
    seen = tiny(visibility="prefix").training([0, 1], [1, 2, 3, 4])
    assert seen.prefix == 3
    assert seen.weights.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    caption = tiny("image_to_text", visibility="prefix").training([0], [1, 2, 3, 4])
    assert (caption.prefix, caption.weights.tolist()) == (7, [0] * 7 + [1, 1])
    large = tiny("super_resolution", context_weight=0.5).training([0], [1, 2, 3, 4], [8, 9])
    assert large.weights.tolist() == [0] + [0.5] * 6 + [1] * 9


def test_dtypes() -> None:
    for kind in ("text_to_image", "image_to_text", "super_resolution"):
        form = tiny(kind)
        for sequence in (
            form.training([], [1, 2, 3, 4], [0] * form.context_codes),
            form.prompt(codes=[0] * (4 if kind == "image_to_text" else form.context_codes)),
        ):
            assert (sequence.ids.dtype, sequence.positions.dtype) == (np.int64, np.int64)
            assert sequence.weights.dtype == np.float32


def test_too_much_or_the_wrong_thing_is_one_clear_line() -> None:
    with pytest.raises(CogViewError, match="the text has 7 tokens and 4 fit"):
        tiny().training(range(7), [1, 2, 3, 4])
    with pytest.raises(CogViewError, match="has 4 tokens and 3 fit"):
        tiny("image_to_text", end="[SEP]").training(range(4), [1, 2, 3, 4])
    with pytest.raises(CogViewError, match="3 codes, this format takes 4"):
        tiny().training([1], [1, 2, 3])
    with pytest.raises(CogViewError, match="image code is outside"):
        tiny().training([1], [1, 2, 3, 10])
    with pytest.raises(CogViewError, match="text token is outside"):
        tiny().prompt([20])


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_grid": (1, 2)},
        {"kind": "super_resolution"},
        {"end": "[SEP]"},
        {"kind": "image_to_text", "end": "[STOP]"},
        {"size": "[LARGE]"},
        {"kind": "image_to_text", "end": "[SEP]", "text_slots": 2},
        {"grid": (0, 2)},
        {
            "kind": "super_resolution",
            "context_grid": (1, 1),
            "vocabulary": Vocabulary(image_codes=1, text_pieces=1, controls=(*CONTROLS[:8], "[BASE]")),
        },
        {"vocabulary": Vocabulary.cogview2()},
        {"context_positions": "aligned"},
        {
            "kind": "super_resolution",
            "context_grid": (1, 2),
            "context_positions": "aligned",
            "image_positions": "index",
        },
        {
            "kind": "super_resolution",
            "context_grid": (2, 2),
            "grid": (2, 3),
            "context_positions": "aligned",
        },
        {"text_weigth": 2},
    ],
)
def test_combinations_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {"vocabulary": V, "grid": (2, 2), "text_slots": 5}
    with pytest.raises(ValueError):
        SequenceFormat.model_validate(fields | wrong)


def test_collate_pads_at_the_end() -> None:
    form = tiny(visibility="prefix")
    a, b = form.training([0, 1, 2], [1, 2, 3, 4]), form.training([5], [4, 3, 2, 1])
    batch = collate([a, b], V.control("[PAD]"))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "ids": (2, 11),
        "positions": (2, 11),
        "weights": (2, 11),
        "prefix": (2,),
    }
    for row, sequence in enumerate((a, b)):
        n = len(sequence)
        for name in ("ids", "positions", "weights"):
            np.testing.assert_array_equal(batch[name][row, :n].numpy(), getattr(sequence, name))
            assert batch[name].numpy().dtype == getattr(sequence, name).dtype
        assert (batch["ids"][row, n:] == V.control("[PAD]")).all()
        assert not batch["weights"][row, n:].any() and not batch["positions"][row, n:].any()
    assert batch["prefix"].tolist() == [4, 2]
