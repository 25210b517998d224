"""Guesses from a table of what follows what: captions stay the same, with fewer forwards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogview.checkpoints.bundle import ModelBundle
from cogview.errors import CogViewError
from cogview.generation.decoder import read_segments
from cogview.generation.next_tokens import ANY, FILE, START, NextTokens
from cogview.generation.strategies import jacobi, sequential
from cogview.pipelines.model import Pipeline
from cogview.training.assembly import assemble
from cogview.types import SamplingParams
from tests.generation import tiny
from tests.generation.test_captioning import captioner, pictures
from tests.training.runs import VOCABULARY, caption, fit, recipe, write_data

STRATEGIES = sys.modules["cogview.generation.strategies"]


def test_a_table_by_hand() -> None:
    table = NextTokens.learn([[5, 6, 7, 9], [5, 6, 8, 9], [5, 6, 7, 9], [4, 6, 8, 9]])
    assert table.table[START, START] == 5 and table.table[5, 6] == 7 and (4, 6) not in table.table
    assert table.table[ANY, 6] == 7  # as common as 8
    assert [table.after(text) for text in ([], [5], [5, 6], [4, 6], [1, 2, 6, 8], [3])] == [
        5,
        6,
        7,
        7,
        9,
        None,
    ]
    few = NextTokens.learn([[5, 6, 7, 9]] * 2 + [[5, 1]], most=2)
    assert few.table == {(START, START): 5, (ANY, START): 5}


def test_a_table_is_read_back_and_checked(tmp_path: Path) -> None:
    table = NextTokens.learn([[5, 6, 7, 9]] * 2)
    table.save(tmp_path / FILE)
    found = NextTokens.read(tmp_path / FILE, 10)
    assert found is not None and found.table == table.table
    assert NextTokens.read(tmp_path / "none", 10) is None
    with pytest.raises(CogViewError, match="not a table of next tokens of this model"):
        NextTokens.read(tmp_path / FILE, 9)
    save_file({"tokens": torch.zeros(2)}, tmp_path / FILE)
    with pytest.raises(CogViewError, match="not a table of next tokens"):
        NextTokens.read(tmp_path / FILE, 10)


def test_captions_stay_the_same_whatever_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessed are what follows in these captions, and nonsense."""
    forwards = list[int]()

    def counting(*arguments: Any) -> torch.Tensor:
        forwards.append(1)
        return read_segments(*arguments)

    monkeypatch.setattr(STRATEGIES, "read_segments", counting)
    images, params = pictures(), SamplingParams(temperature=0.8)
    wanted = [(image, 7, index) for image in range(3) for index in range(2)]

    def captions(**options: Any) -> tuple[list[list[int]], int]:
        forwards.clear()
        found = dict(captioner(**options).sample(images, wanted, params, batch_size=1))
        return [found[number].pieces.tolist() for number in range(len(wanted))], len(forwards)

    expected, _ = captions(strategy=sequential)
    form = tiny.caption_form()
    first, end = form.vocabulary.texts.start, form.vocabulary.control(form.end or "")
    ids = [[*(piece + first for piece in text), end] for text in expected]
    nonsense = NextTokens(dict.fromkeys([(ANY, token) for token in range(first, end)], first + 1))
    plain, without = captions(strategy=jacobi)
    known, fewer = captions(strategy=jacobi, next_tokens=NextTokens.learn(ids * 2))
    wrong, more = captions(strategy=jacobi, next_tokens=nonsense)
    assert expected == plain == known == wrong
    assert fewer < 0.5 * without and more <= sum(map(len, ids))


def test_it_is_learnt_with_the_captions_and_goes_into_the_family(tmp_path: Path) -> None:
    data = write_data(tmp_path / "tokens", caption, VOCABULARY, "1" * 16, "2" * 64)
    fields = {"format": {"kind": "image_to_text", "text_slots": 6, "end": "[SEP]"}, "steps": 2}
    fit(recipe(data, **fields), tmp_path / "run")
    found = NextTokens.read(tmp_path / "run" / "model" / FILE, VOCABULARY.size)
    assert found is not None
    texts = {(*caption(kind, language).pieces, -1) for kind in range(4) for language in ("en", "zh")}
    first, end = VOCABULARY.texts.start, VOCABULARY.control("[SEP]")
    for text in texts:  # every guess is one of the continuations that there are
        for place in range(len(text)):
            guess = found.after([piece + first for piece in text[:place]])
            assert guess is not None
            begun = {other[place] for other in texts if other[:place] == text[:place]}
            assert (-1 if guess == end else guess - first) in begun

    family = ModelBundle(tiny.write(tmp_path, captioning=True))
    table = NextTokens.learn([[tiny.CODES + 3, tiny.CODES + 4]] * 2)
    table.save(family.directory / "caption" / FILE)
    again = assemble(tmp_path / "again", {}, start=family)
    read = Pipeline.from_pretrained(again.directory).captioning.captioner.engine.next_tokens
    assert read is not None and read.table == table.table
