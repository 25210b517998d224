"""Attention facts against a plain forward pass, and planted patterns that the finder has to name."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cogview import CogView
from cogview.analysis.attention import (
    HeadFacts,
    Layout,
    by_offset,
    classify,
    column_share,
    explained,
    observe,
    pooled,
    received,
    regions,
)
from cogview.analysis.attention_report import SIDE, find_word, lay_out
from cogview.checkpoints.provenance import read
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.sequences import SequenceFormat
from tests.transformer.tiny import tiny_model

ROWS, COLUMNS = 6, 8
CODES = ROWS * COLUMNS


def head(among: np.ndarray, separators: float = 0.0, text: float = 0.0) -> HeadFacts:
    """Facts of a head whose codes attend to each other as ``among`` (rows sum to 1) says."""
    among = (among * (1 - separators - text)).astype(np.float32)
    first = 2 * COLUMNS
    return HeadFacts(
        layer=0,
        head=0,
        map=received(among).reshape(ROWS, COLUMNS),
        words=np.zeros((0, ROWS, COLUMNS), np.float32),
        offsets=by_offset(among),
        separators=separators,
        text=text,
        first_rows=float(among[first:, :first].sum(1).mean()),
        effective=1.0,
        column=column_share(among, COLUMNS),
    )


def causal(weights: np.ndarray) -> np.ndarray:
    """Weights (codes, codes) made into causal attention."""
    lower = np.tril(weights) + 1e-9 * np.eye(CODES)
    return lower / lower.sum(1, keepdims=True)


def planted(offset: int) -> np.ndarray:
    """Most attention to the code ``offset`` before, a little everywhere."""
    return causal(np.full((CODES, CODES), 0.01) + np.eye(CODES, k=-offset) * 2)


@pytest.mark.parametrize(
    ("offset", "place"), [(COLUMNS, (1, 0)), (1, (0, 1)), (COLUMNS - 1, (1, -1)), (2 * COLUMNS, (2, 0))]
)
def test_a_fixed_offset_is_found(offset: int, place: tuple[int, int]) -> None:
    verdict = classify(head(planted(offset)))
    assert (verdict.bias, verdict.offset) == ("offset", place)


def test_first_rows_separators_and_text_are_found() -> None:
    top = np.full((CODES, CODES), 0.02)
    top[:, : 2 * COLUMNS] = 1
    assert classify(head(causal(top))).bias == "first rows"
    even = causal(np.ones((CODES, CODES)))
    assert classify(head(even, separators=0.9)).bias == "separator"
    assert classify(head(even, text=0.8)).bias == "text"


def test_attention_up_the_own_column_is_found() -> None:
    """Multiples of a row's length (figure 12 a), none of which has most of it."""
    weights = np.full((CODES, CODES), 0.01)
    for rows in range(1, ROWS):
        weights += np.eye(CODES, k=-rows * COLUMNS)
    verdict = classify(head(causal(weights)))
    assert verdict.bias == "column" and verdict.strength > 0.7


@given(st.integers(0, 10**6), st.integers(3, 9), st.integers(3, 9))
def test_the_share_up_the_column_is_what_a_loop_finds(seed: int, rows: int, columns: int) -> None:
    codes = rows * columns
    among = np.tril(np.random.default_rng(seed).random((codes, codes)))
    among = (among / among.sum(1, keepdims=True)).astype(np.float32)
    shares = [sum(among[i, j] for j in range(i) if j % columns == i % columns) for i in range(columns, codes)]
    assert column_share(among, columns) == pytest.approx(float(np.mean(shares)), rel=1e-5)


@given(st.integers(1, 40), st.integers(1, 12))
def test_a_pooled_matrix_keeps_what_every_code_gives(codes: int, most: int) -> None:
    among = np.random.default_rng(codes).random((codes, codes)).astype(np.float32)
    found, size = pooled(among, most), -(-codes // most)
    assert max(found.shape) <= most
    for group in range(len(found)):
        expected = among[group * size : (group + 1) * size].sum(1).mean()
        assert found[group].sum() == pytest.approx(float(expected), rel=1e-4)
    if codes <= most:
        np.testing.assert_array_equal(found, among)


@pytest.mark.parametrize("wanted", ["checker", "half", "centre"])
def test_broad_structure_is_found_in_attention(wanted: str) -> None:
    """Planted by what every code gives to the places before it, not in the map itself."""
    rows, columns = np.indices((ROWS, COLUMNS)).reshape(2, -1)
    board = np.where((rows + columns) % 2, 1.0, 0.2)
    below = np.where(rows >= ROWS // 2, 6.0, 0.2)
    middle = np.where(np.hypot(rows / ROWS - 0.42, columns / COLUMNS - 0.44) < 0.3, 6.0, 0.2)
    key = {"checker": board, "half": below, "centre": middle}[wanted]
    weights = np.broadcast_to(key, (CODES, CODES)) * np.random.default_rng(0).uniform(
        0.9, 1.1, (CODES, CODES)
    )
    assert classify(head(causal(weights))).bias == wanted


def test_broad_structure_is_found() -> None:
    rows, columns = np.indices((ROWS, COLUMNS)).reshape(2, -1)
    board = np.where((rows + columns) % 2, 1.0, 0.2)
    below = np.where(rows >= ROWS // 2, 1.0, 0.1)
    plain = head(causal(np.ones((CODES, CODES))))
    for wanted, values in (("checker", board), ("half", below)):
        facts = HeadFacts(**{**vars(plain), "map": values.reshape(ROWS, COLUMNS).astype(np.float32)})
        assert classify(facts).bias == wanted
    noise = np.random.default_rng(1).random((ROWS, COLUMNS)).astype(np.float32)
    assert classify(HeadFacts(**{**vars(plain), "map": noise})).bias == "content"


def test_the_facts_are_those_of_the_models_own_attention() -> None:
    """A head's attention times its values gives what the layer puts out; shares and maps follow from it."""
    model = tiny_model().eval()
    layout = Layout(separators=(0, 4), text=(1, 2, 3), codes=tuple(range(5, 17)), grid=(3, 4))
    ids = torch.randint(0, model.config.vocab_size, (17,), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(17)
    facts = observe(model, ids, positions, layout, words=[(1, 2)])
    assert len(facts) == model.config.layers * model.config.heads
    inputs: list[torch.Tensor] = []
    first = model.blocks[0].attention
    handle = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        model(ids[None], positions[None])
        handle.remove()
        query, key, _ = first.qkv(inputs[0])[0].chunk(3, -1)
        size = model.config.head_dim
        scores = query[:, :size] @ key[:, :size].T / size**0.5
        attention = scores.masked_fill(~torch.ones(17, 17, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    codes = attention[5:]
    assert facts[0].text == pytest.approx(float(codes[:, 1:4].sum(1).mean()), rel=1e-5)
    assert facts[0].separators == pytest.approx(float(codes[:, [0, 4]].sum(1).mean()), rel=1e-5)
    np.testing.assert_allclose(facts[0].words[0].ravel(), codes[:, 1:3].sum(1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(facts[0].map.ravel()[-1], float(codes[-1, -1]), rtol=1e-5)
    among = codes[:, 5:].numpy()
    np.testing.assert_allclose(facts[0].matrix, among, rtol=1e-5, atol=1e-7)
    assert facts[0].offsets[1] == pytest.approx(
        np.mean([float(codes[i, 5 + i - 1]) for i in range(1, 12)]), rel=1e-5
    )
    assert facts[0].scores["text to text"].largest == pytest.approx(
        float(torch.stack([scores[i, j] for i in (1, 2, 3) for j in range(1, i + 1)]).max()), rel=1e-5
    )
    assert not first._forward_pre_hooks, "the model is left as it was"


def test_a_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "a blue monster, red background"
    assert main(["inspect", "attention", prompt, "--seed", "3", "-o", str(tmp_path / "look")]) == 0
    assert "8 layers" in capsys.readouterr().out
    page = (tmp_path / "look" / "index.html").read_text()
    assert "red background" in page and page.count("<img") == 1 + 2 * 4 + 8 and page.count("<svg") == 3
    assert "<script" not in page and not re.search("https?:", page)
    heads = json.loads((tmp_path / "look" / "heads.json").read_text())["heads"]
    assert len(heads) == 8 * 8 and {"layer", "head", "bias", "strength", "scores"} <= set(heads[0])
    with Image.open(tmp_path / "look" / "layer-00.png") as sheet:
        assert sheet.width > 8 * SIDE and sheet.height > 2 * SIDE
    facts = read(tmp_path / "look" / "picture.png")
    assert facts is not None and (facts.prompt, facts.seed) == (prompt, 3)


def test_regions_are_the_pictures_things_and_a_segmenting_head_is_found() -> None:
    """A map that is one thing's mask is explained whole, one across the things not at all."""
    sky, apple, table = (40.0, 60, 200), (210.0, 30, 40), (120.0, 90, 60)
    wanted = np.array(
        [[0] * 8, [0] * 8, [0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0], [2] * 8, [2] * 8]
    )
    noise = np.random.default_rng(0).normal(0, 6, (ROWS * COLUMNS, 3))
    colours = (np.array([sky, apple, table])[wanted.ravel()] + noise).astype(np.float32)
    found = regions(colours)
    pairs = set(zip(wanted.ravel().tolist(), found.tolist(), strict=True))
    assert len(pairs) == 3 and len({label for _, label in pairs}) == 3
    mask = (wanted == 1).astype(np.float32) * 0.3 + 0.01
    assert explained(mask, found) == pytest.approx(1)
    stripes = np.tile([0.2, 0.1], (ROWS, COLUMNS // 2)).astype(np.float32)
    assert explained(stripes, found) < 0.05 and explained(np.ones_like(mask), found) == 0


def test_words_are_found_in_the_text_or_refused() -> None:
    model = CogView.from_pretrained()
    pieces = model.text_to_image.encode("a blue monster with round eyes, red background")
    found = find_word(model, pieces, "Round eyes")
    assert "roundeyes" in model.text_tokenizer.decode([pieces[i] for i in found]).replace(" ", "")
    with pytest.raises(CogViewError, match="'hat' is not in the text"):
        find_word(model, pieces, "hat")


def test_every_place_has_one_role() -> None:
    form = SequenceFormat.cogview()
    sequence = form.training([5, 6], np.zeros(1024, dtype=np.int64))
    layout = lay_out(sequence.ids, form.vocabulary, form.grid)
    assert layout.text == (1, 2) and len(layout.codes) == 1024
    assert sorted(layout.separators + layout.text + layout.codes) == list(range(len(sequence)))
