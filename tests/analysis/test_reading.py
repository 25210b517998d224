"""What each role reads, and a CogLM's heads, against rows of attention computed by hand from the weights."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogview import CogView, CogView2, from_pretrained
from cogview.analysis.attention import HeadFacts, Layout, observe
from cogview.analysis.attention_report import analyse
from cogview.analysis.reading import reading
from cogview.analysis.stability import layer_ranges
from cogview.cli.app import main
from cogview.generation.loop import prefill
from cogview.pipelines.base import GeneratedImage
from cogview.transformer.model import Transformer
from tests.generation import tiny, tiny2

PROMPT, EMPHASIS = "a red circle", 1.4  # as the tiny family's defaults say


@pytest.fixture(scope="module")
def coglm(tmp_path_factory: pytest.TempPathFactory) -> CogView2:
    found = from_pretrained(
        tiny2.write(tmp_path_factory.mktemp("family"), enlarging=True), deterministic=True
    )
    assert isinstance(found, CogView2)
    return found


@pytest.fixture(scope="module")
def picture(coglm: CogView2) -> GeneratedImage:
    return coglm.generate(PROMPT, seed=4, first_stage_only=coglm.bundle.config.two_stage)[0]


def visible(row: int, words: int) -> list[int]:
    """Whom a token of [text, [BOI], codes] sees: the text both ways, the rest what is behind it."""
    return list(range(words)) if row < words else list(range(row + 1))


def by_hand(model: Transformer, layer: int, x: torch.Tensor, words: int, emphasis: float) -> np.ndarray:
    """Attention (heads, L, L) of a layer that ``x`` (L, h) enters, row by row and number by number."""
    block, config = model.blocks[layer], model.config
    query, key, _ = block.attention.qkv(block.attention_branch.norm_in(x)).double().chunk(3, -1)
    found = np.zeros((config.heads, len(x), len(x)))
    for head in range(config.heads):
        part = slice(head * config.head_dim, (head + 1) * config.head_dim)
        for row in range(len(x)):
            scores = {
                column: float(query[row, part] @ key[column, part]) / math.sqrt(config.head_dim)
                + emphasis * (column < words)
                for column in visible(row, words)
            }
            largest = max(scores.values())
            whole = sum(math.exp(score - largest) for score in scores.values())
            for column, score in scores.items():
                found[head, row, column] = math.exp(score - largest) / whole
    return found


def assert_is(facts: HeadFacts, attention: np.ndarray, words: int) -> None:
    """Facts of a head whose attention (L, L) is known."""
    given = attention[words + 1 :]
    among = given[:, words + 1 :]
    assert facts.text == pytest.approx(given[:, :words].sum(1).mean(), rel=1e-4)
    assert facts.separators == pytest.approx(given[:, words].mean(), rel=1e-4)
    assert facts.effective == pytest.approx(
        math.exp(np.mean([-sum(p * math.log(p) for p in row if p > 0) for row in given])), rel=1e-4
    )
    for place in range(len(among)):
        mean = np.mean([among[giver, place] for giver in range(place, len(among))])
        assert facts.map.ravel()[place] == pytest.approx(mean, rel=1e-3, abs=1e-6)
    np.testing.assert_allclose(facts.matrix, among, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(facts.words[0].ravel(), given[:, 1:3].sum(1), rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_a_coglms_heads_are_those_of_rows_computed_by_hand(coglm: CogView2, picture: GeneratedImage) -> None:
    """In the first layer as drawn, with its emphasis; in the last without, after layers with a plain mask."""
    words = len(coglm.text_to_image.encode(PROMPT))
    layout = Layout((words,), tuple(range(words)), tuple(range(words + 1, words + 17)), (4, 4))
    model = coglm.bundle.transformer("base")
    plain = replace(picture, settings=picture.settings | {"emphasis": 0.0})
    for drawn, layer, emphasis in ((picture, 0, EMPHASIS), (plain, 1, 0.0)):
        read = reading(coglm, "base", drawn)
        mask = torch.zeros(words + 17, words + 17, dtype=torch.bool)
        for row in range(words + 17):
            mask[row, visible(row, words)] = True
        record: list[torch.Tensor] = []
        model(read.ids[None], read.positions[None], mask, record=record)
        wanted = by_hand(model, layer, record[layer][0], words, emphasis)
        found = observe(model, read.ids, read.positions, layout, [(1, 2)], read.visibility)
        for facts in found:
            if facts.layer == layer:
                assert_is(facts, wanted[facts.head], words)


@torch.no_grad()
def test_scores_among_the_text_count_both_ways_and_no_emphasis(
    coglm: CogView2, picture: GeneratedImage
) -> None:
    words, model = len(coglm.text_to_image.encode(PROMPT)), coglm.bundle.transformer("base")
    block, config = model.blocks[0], model.config
    read = reading(coglm, "base", picture)
    x = block.attention_branch.norm_in(model.embed(read.ids, read.positions))
    query, key, _ = block.attention.qkv(x).chunk(3, -1)
    scores = query[:, : config.head_dim] @ key[:, : config.head_dim].T / math.sqrt(config.head_dim)
    facts = analyse(coglm, PROMPT, seed=4).facts[0]
    among, to_text = scores[:words, :words], scores[words + 1 :, :words]
    assert facts.scores["text to text"].largest == pytest.approx(float(among.max()), rel=1e-4)
    assert facts.scores["text to text"].mean == pytest.approx(float(among.mean()), rel=1e-3)
    assert facts.scores["image to text"].least == pytest.approx(float(to_text.min()), rel=1e-4)


@torch.no_grad()
def test_what_is_looked_at_is_what_was_drawn(coglm: CogView2, picture: GeneratedImage) -> None:
    """The engine's state after the prompt is the same as in the sequence that is looked at."""
    prompt = coglm.text_to_image.format.image_prompt(coglm.text_to_image.encode(PROMPT))
    drawn = prefill(coglm.text_to_image.engine.decoder, prompt, EMPHASIS).hidden
    read = reading(coglm, "base", picture)
    model = coglm.bundle.transformer("base")
    state = model(read.ids[None], read.positions[None], read.visibility)[0, len(prompt.ids) - 1]
    torch.testing.assert_close(drawn.flatten(), state, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(read.ids[len(prompt.ids) :], picture.codes)
    assert "both ways" in read.description and "1.4 larger" in read.description


def test_a_report_on_a_coglm_is_written(
    coglm: CogView2, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(coglm.bundle.directory)
    asked = ["inspect", "attention", PROMPT, "--word", "red", "-m", model, "--seed", "4"]
    assert main([*asked, "-o", str(tmp_path / "look")]) == 0
    assert "2 layers" in capsys.readouterr().out
    page = (tmp_path / "look" / "index.html").read_text()
    assert "the text sees itself both ways" in page and page.count("<img") == 1 + 4 + 2
    assert len(json.loads((tmp_path / "look" / "heads.json").read_text())["heads"]) == 2 * 4
    assert main([*asked, "--word", "hat", "-o", str(tmp_path / "no")]) == 2
    assert "'hat' is not in the text" in capsys.readouterr().err


def test_a_prefix_is_seen_both_ways(tmp_path: Path) -> None:
    model = CogView.from_pretrained(tiny.write(tmp_path))
    picture = model.generate(PROMPT, seed=1, first_stage_only=model.bundle.config.two_stage)[0]
    form = model.text_to_image.format.model_copy(update={"visibility": "prefix"})
    role = model.bundle.config.roles["base"].model_copy(update={"sequences": form})
    model.bundle.config = model.bundle.config.model_copy(update={"roles": {"base": role}})
    read, words = reading(model, "base", picture), len(model.text_to_image.encode(PROMPT)) + 1
    mask = read.visibility.dense_mask(len(read.ids), len(read.ids))[0, 0]
    assert mask[:words, :words].all() and not mask[:words, words:].any()
    assert torch.equal(
        mask[words:], torch.ones(len(read.ids), len(read.ids), dtype=torch.bool).tril()[words:]
    )


# ------------------------------------------------------------------------------------------- other roles


def test_each_role_reads_its_own_sequence(tmp_path: Path, coglm: CogView2, picture: GeneratedImage) -> None:
    model = CogView.from_pretrained(tiny.write(tmp_path, upscaling=True, captioning=True))
    drawn = model.generate(PROMPT, seed=1, first_stage_only=model.bundle.config.two_stage)[0]
    said = reading(model, "caption", drawn).ids
    assert said[2:18].tolist() == drawn.codes.tolist()  # [BASE] [BOI1] codes
    larger, words = reading(model, "super_resolution", drawn).ids, len(model.text_to_image.encode(PROMPT))
    assert larger[-17:-1].tolist() == drawn.codes.tolist()
    small = larger[words + 3 : words + 7]  # [ROI1] text [BASE] [BOI1]
    pixels = torch.from_numpy(np.array(drawn.image.resize((8, 8), 1))).permute(2, 0, 1)[None] / 255
    assert small.tolist() == model.image_tokenizer.encode(pixels)[0].tolist()
    direct, form = reading(coglm, "direct", picture), coglm.super_resolution.format
    assert direct.ids[form.text_slots : form.decoder_from].tolist() == picture.codes.tolist()
    assert (direct.ids[form.decoder_from :] == form.mask_id).all()
    iterative = reading(coglm, "iterative", picture).ids[-form.codes :].reshape(form.grid)
    [large] = coglm.upscale([picture])
    hidden = iterative == form.mask_id
    assert hidden[:6, :6].sum() == 23  # the release keeps 13 of 36
    assert torch.equal(iterative[~hidden], torch.from_numpy(large.codes).reshape(form.grid)[~hidden])


def test_a_decoders_own_matrices_are_measured(coglm: CogView2, picture: GeneratedImage) -> None:
    """The direct model's large codes have matrices of their own; their scores count."""
    model, read = coglm.bundle.transformer("direct"), reading(coglm, "direct", picture)
    before = layer_ranges(model, read.ids[None], read.positions, read.visibility)
    with torch.no_grad():
        model.blocks[1].attention.decoder_qkv.weight *= 100
    after = layer_ranges(model, read.ids[None], read.positions, read.visibility)
    assert after[0] == before[0] and after[1].scores > 20 * before[1].scores


def test_the_command_measures_each_role(coglm: CogView2, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["inspect", "stability", "--model", str(coglm.bundle.directory), "--prompt", PROMPT, "--json"]
    tables = {}
    for role in ("base", "direct", "iterative"):
        assert main([*asked, "--role", role]) == 0
        tables[role] = json.loads(capsys.readouterr().out)
        assert len(tables[role]) == 2 and all(0 < layer["headroom"] < 16 for layer in tables[role])
    assert len({table[0]["stream"] for table in tables.values()}) == 3
    assert main([*asked, "--role", "captions"]) == 2
    assert "no 'captions' role; it has base, direct, iterative" in capsys.readouterr().err
