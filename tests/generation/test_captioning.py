"""Captions: what may come, where they end, beams against all texts there are, the same in any batch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation.beams import search
from cogview.generation.caption_decoding import Captioner, Draft, text_rows
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine, TokenConstraint
from cogview.generation.languages import allowed_tokens, language
from cogview.generation.sampling import Streams, gumbel_sample
from cogview.sequences import SequenceFormat
from cogview.tokenizers.language_classes import is_chinese, writing_of
from cogview.transformer.attention import Prefix
from cogview.transformer.model import Transformer
from cogview.types import Ids, SamplingParams
from cogview.vocabulary import Vocabulary
from tests.generation import tiny

FREE = SamplingParams()


def pictures(count: int = 3) -> list[Ids]:
    return list(np.random.default_rng(0).integers(0, tiny.CODES, (count, 16)))


def captioner(form: SequenceFormat | None = None, **options: Any) -> Captioner:
    form = form or tiny.caption_form()
    model = tiny.transformer(seed=3)
    rows = text_rows(form.vocabulary, model.config.vocab_size)
    return Captioner(Engine(pack(model, rows), **options), form, tiny.text_tokenizer())


def likely_to_end(more: float) -> Captioner:
    """A captioner whose end token's logit is ``more`` larger."""
    made = captioner()
    decoder, place = (
        made.engine.decoder,
        made.format.vocabulary.control("[SEP]") - made.engine.decoder.rows.start,
    )
    head = decoder.head

    def biased(hidden: Tensor) -> Tensor:
        logits = head(hidden)
        logits[:, place] += more
        return logits

    object.__setattr__(decoder, "head", biased)
    return made


def log_p(model: Transformer, form: SequenceFormat, codes: Ids, pieces: list[int], allowed: Tensor) -> Tensor:
    """Log-probabilities (n + 1, v) of what may come at each place, from a full forward pass."""
    read = form.prompt(codes=codes)
    ids = torch.tensor([*read.ids, *(piece + form.vocabulary.texts.start for piece in pieces)])
    positions = torch.tensor([*read.positions, *form.text_positions()[: len(pieces)]])
    prefix = Prefix(read.prefix) if read.prefix else None
    with torch.no_grad():
        hidden = model(ids[None], positions[None], prefix)[0, len(read.ids) - 1 :]
        logits = model.logits(hidden, slice(form.vocabulary.texts.start, None))
    return logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)


def texts(drafts: Any) -> list[list[int]]:
    found: dict[int, Draft] = dict(drafts)
    return [found[i].pieces.tolist() for i in sorted(found)]


@pytest.mark.parametrize("changes", [{}, {"visibility": "prefix"}, {"image_positions": "index"}])
def test_a_caption_is_that_of_a_full_recompute(changes: dict[str, str]) -> None:
    form = tiny.caption_form(**changes)
    made, codes = captioner(form), pictures(1)[0]
    writing = made.constraint(None)
    found = texts(made.sample([codes], [(0, 5, 2)], FREE, length=9))[0]
    streams, by_hand = Streams([(5, 2)], 9, "cpu"), list[int]()
    for i in range(9):
        allowed = writing.allowed.clone()
        if i == 0:
            allowed[form.vocabulary.control("[SEP]") - form.vocabulary.texts.start] = False
        scores = log_p(tiny.transformer(seed=3), form, codes, by_hand, allowed)[-1:]
        piece = int(gumbel_sample(scores, streams.gumbel(i, scores.shape[1])))
        if piece >= form.vocabulary.text_pieces:
            break
        by_hand.append(piece)
    assert found == by_hand


def test_captions_end_where_their_end_token_comes() -> None:
    """Of many lengths, none with a control token in it; the longest may be cut."""
    made = likely_to_end(4.0)
    wanted = [(i % 3, 7, i) for i in range(24)]
    found = texts(made.sample(pictures(), wanted, FREE, length=12))
    lengths = set(map(len, found))
    assert min(lengths) >= 1 and max(lengths) <= 12 and len(lengths) > 3
    assert all(0 <= piece < made.format.vocabulary.text_pieces for text in found for piece in text)


def test_a_caption_is_the_same_in_any_batch() -> None:
    made = likely_to_end(4.0)
    wanted = [(i % 3, 7, i) for i in range(12)]
    together = texts(made.sample(pictures(), wanted, FREE))
    for size in (1, 5):
        assert texts(made.sample(pictures(), wanted, FREE, batch_size=size)) == together
    alone = [texts(made.sample(pictures(), [one], FREE))[0] for one in wanted]
    assert alone == together and len(set(map(tuple, alone))) > 8
    exact = Captioner(Engine(made.engine.decoder, deterministic=True), made.format, made.text)
    assert texts(exact.sample(pictures(), wanted, FREE)) == together


def test_writing_stops_when_all_have_ended() -> None:
    """Nothing is computed for the steps that are left."""
    steps: list[tuple[int, int]] = []
    made = likely_to_end(100.0)
    found = texts(made.sample(pictures(1), [(0, 1, 0)], FREE, progress=lambda *told: steps.append(told)))
    assert len(found[0]) == 1 and len(steps) <= 3 and steps[-1] == (30, 30)


def test_without_an_end_token_twenty_are_written_as_released() -> None:
    made = captioner(tiny.caption_form(end=None))
    [found] = texts(made.sample(pictures(1), [(0, 1, 0)], FREE))
    assert len(found) == 20
    assert [len(beam.pieces) for beam in made.beams(pictures(1)[0], 2, 2)] == [20, 20]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_caption_keeps_to_its_language(language: str) -> None:
    made, codes = captioner(), pictures(1)[0]
    drawn = texts(made.sample([codes], [(0, 1, i) for i in range(8)], FREE, language))
    beams = [beam.pieces.tolist() for beam in made.beams(codes, 3, 3, language, 8)]
    used = {made.text.piece(piece) for text in drawn + beams for piece in text}
    assert set.union(*map(writing_of, used)) == {language}


@pytest.mark.parametrize(
    ("piece", "writing"),
    [
        ("▁red", {"en"}),
        ("红色", {"zh"}),
        ("，", set()),
        ("。", set()),
        ("3", set()),
        ("T恤", {"zh", "en"}),
        ("<0xE7>", {"other"}),
        ("да", {"other"}),
        ("é", {"en"}),
    ],
)
def test_what_a_piece_is_written_in(piece: str, writing: set[str]) -> None:
    assert writing_of(piece) == writing


def test_languages_of_a_sorted_vocabulary_are_its_runs() -> None:
    """CogView2's pieces lie in runs by language; what they are written in is then not looked at."""
    runs = (("common", 0, 10), ("en", 10, 100), ("zh", 100, 287))
    vocabulary = Vocabulary(image_codes=64, text_pieces=287, languages=runs)
    assert allowed_tokens(tiny.text_tokenizer(), vocabulary, "en").nonzero()[0].tolist() == [*range(100)]
    chinese = allowed_tokens(tiny.text_tokenizer(), vocabulary, "zh").nonzero()[0].tolist()
    assert chinese == [*range(10), *range(100, 287)]
    with pytest.raises(CogViewError, match="no language 'fr'; use zh or en"):
        allowed_tokens(tiny.text_tokenizer(), vocabulary, "fr")


def all_texts(allowed: list[int], stop: int | None, longest: int) -> list[tuple[tuple[int, ...], bool]]:
    """Every text, and whether it is ended: of 1 to ``longest`` pieces; those of the full length are cut."""
    found = []
    for n in range(1, longest + 1):
        for pieces in itertools.product(allowed, repeat=n):
            found.append((pieces, n < longest))
    return [(pieces, ended) for pieces, ended in found if not ended or stop is not None]


@pytest.mark.parametrize("end", ["[SEP]", None])
@pytest.mark.parametrize("picture", [0, 1, 2])
def test_enough_beams_find_the_best_of_all_texts(end: str | None, picture: int) -> None:
    """Brute force over every text of up to 4 of 3 pieces: mean log-probability, the end counted."""
    form = tiny.caption_form(end=end)
    made, codes, model = captioner(form), pictures()[picture], tiny.transformer(seed=3)
    stop = form.vocabulary.control(end) if end else None
    pieces, start = [20, 33, 50], form.vocabulary.texts.start
    allowed = torch.zeros(made.engine.decoder.rows.stop - start, dtype=torch.bool)
    allowed[pieces] = True
    first = allowed.clone()
    if stop is not None:
        allowed[stop - start] = True
    scores = {}
    for text, ended in all_texts(pieces, stop, 4):
        table = log_p(model, form, codes, list(text), allowed)
        table[0] = log_p(model, form, codes, [], first)[0]
        total = sum(float(table[i, piece]) for i, piece in enumerate(text))
        total += float(table[len(text), stop - start]) if ended and stop is not None else 0.0
        scores[text] = total / (len(text) + ended)
    best = sorted(scores.items(), key=lambda item: -item[1])[:3]
    prompt = made.prompt(codes, 4)
    read = made.engine.prefill(prompt)
    limits = (
        made.engine.decoder,
        read.hidden,
        read.cache,
        prompt.decode_positions,
        TokenConstraint(allowed, stop),
    )
    found = search(*limits, beams=81)
    assert [tuple(i - start for i in beam.ids) for beam in found[:3]] == [text for text, _ in best]
    assert [beam.score for beam in found[:3]] == pytest.approx([score for _, score in best], abs=1e-4)
    [greedy] = search(*limits, beams=1)
    assert greedy.score <= found[0].score + 1e-6


def test_wrong_lengths_are_refused() -> None:
    for length in (0, 31):
        with pytest.raises(CogViewError, match=rf"{length} tokens; this model writes 1 to 30"):
            captioner().prompt(pictures(1)[0], length)


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("苹果", True), ("々", True), ("〇", True), ("林", True), ("𠀀", True),
        ("a、b。「c」", False), ("a red apple", False), ("12!", False), ("りんご", False),
    ],
)  # fmt: skip
def test_one_function_says_what_is_chinese(text: str, chinese: bool) -> None:
    """ "、" was Chinese for captions and not for prompts."""
    assert is_chinese(text) is chinese
    assert language(text) == ("zh" if chinese else "en")
    assert ("zh" in writing_of(text)) is chinese
