"""``filling_sequence`` against runs of the released code: tokens, logits of every call, positions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation.caption_decoding import text_rows
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.scoring import Scorer
from cogview.importers.cogview1 import rename
from cogview.sequences import SequenceFormat
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary
from tests.reference.cogview_sampling import Rules, caption_scores, fill

FIXTURES = Path(__file__).parents[1] / "fixtures/cogview1"
VOCABULARY = Vocabulary(image_codes=64, text_pieces=100)


@pytest.fixture(scope="module")
def model() -> Transformer:
    """The recorded runs' model."""
    config = TransformerConfig(
        layers=2,
        hidden=32,
        heads=4,
        vocab_size=256,
        max_positions=1089,
        norm_relax="tensor",
        numerics="released",
    )
    model = Transformer(config).eval()
    state = load_file(FIXTURES / "model_b.safetensors")
    model.load_state_dict({rename(name): value for name, value in state.items()})
    return model


def recorded(name: str) -> tuple[dict[str, Tensor], SamplingParams, torch.Generator]:
    facts = json.loads((FIXTURES / f"{name}.json").read_text())
    settings = SamplingParams(temperature=facts["temperature"], top_k=facts["top_k"], top_p=facts["top_p"])
    generator = torch.Generator().manual_seed(facts["torch_seed"])
    return load_file(FIXTURES / f"{name}.safetensors"), settings, generator


@pytest.mark.parametrize(
    "name", ["fill_t2i_greedy", "fill_mid_provided", "fill_caption_topp", "fill_t2i_sample_nb4"]
)
def test_a_recorded_run(model: Transformer, name: str) -> None:
    """Greedy, given tokens in the middle, nucleus sampling of a caption, four drawings in parallel."""
    expected, settings, generator = recorded(name)
    logits: list[Tensor] = []
    found = fill(model, VOCABULARY, expected["seq"], settings, generator, logits)
    assert torch.equal(found, expected["output"])
    if name == "fill_t2i_sample_nb4":  # the first call has one row, the others four
        steps = expected["step_logits"].view(64, 4, -1)
        logits[0] = logits[0].expand(4, -1)
        torch.testing.assert_close(torch.stack(logits), steps, atol=2e-4, rtol=1e-4)
    else:
        torch.testing.assert_close(torch.cat(logits), expected["step_logits"], atol=2e-4, rtol=1e-4)


def test_positions_of_a_recorded_run() -> None:
    expected, _, _ = recorded("fill_mid_provided")
    rules = Rules(VOCABULARY)
    positions = expected["positions_fed"].tolist()
    for index, token in enumerate(expected["output"][0].tolist()):
        rules.see(token, index)
    assert rules.positions(0, len(positions)).tolist() == positions


def test_a_given_token_keeps_the_likeliest_drawing(model: Transformer) -> None:
    """Four drawings of three tokens, then a given one: what stays is the best by the model's own scores."""
    control = VOCABULARY.control
    start = [control("[ROI1]"), 70, 71, control("[BASE]"), control("[BOI1]")]
    four = fill(model, VOCABULARY, [*start, -4, -4, -4], SamplingParams(), torch.Generator().manual_seed(3))
    one = fill(model, VOCABULARY, [*start, -4, -4, -4, 9], SamplingParams(), torch.Generator().manual_seed(3))
    with torch.inference_mode():
        positions = torch.arange(8)
        logits = model.logits(model(four, positions), slice(0, 64))[:, 4:7]
    scores = logits.log_softmax(-1).gather(2, four[:, 5:, None]).sum((1, 2))
    assert one.tolist() == [[*four[scores.argmax()].tolist(), 9]]


def test_positions_counted_again_make_room(model: Transformer) -> None:
    """Super-resolution's sequences are longer than the table of positions; before [ROI2] none may be."""
    control = VOCABULARY.control
    start = [control("[ROI1]"), control("[BASE]"), control("[BOI1]"), *range(60), control("[EOI1]")]
    window = [control(name) for name in ("[ROI2]", "[POS0]", "[BASE]", "[BOI2]")]
    whole = [*start, *window, *([7] * 1040), -1]
    assert len(whole) > 1089 and 0 <= fill(model, VOCABULARY, whole, SamplingParams())[0, -1] < 64
    for wrong in ([*start, *window, *([7] * 1090), -1], [*start, *([7] * 1090), *window, -1]):
        with pytest.raises(CogViewError, match="1089 positions"):
            fill(model, VOCABULARY, wrong, SamplingParams())


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ([-1, 3], "starts with a given token"),
        ([3] * 2000, "1089 positions"),
        ([3, -1, -2], "1 and 2 drawings"),
    ],
)
def test_sequences_that_cannot_be_filled(model: Transformer, sequence: list[int], message: str) -> None:
    with pytest.raises(CogViewError, match=message):
        fill(model, VOCABULARY, sequence, SamplingParams())


def test_recorded_caption_scores(model: Transformer) -> None:
    """The release's post-selection, one batch of pictures with one text, and its refusals."""
    run = load_file(FIXTURES / "caption_score.safetensors")
    found = caption_scores(model, VOCABULARY, run["seq"])
    torch.testing.assert_close(found, run["scores"], atol=1e-5, rtol=1e-6)
    with pytest.raises(CogViewError, match=r"one \[ROI1\] each"):
        caption_scores(model, VOCABULARY, run["seq"][:, :9])


def test_the_scorer_gives_the_recorded_scores(model: Transformer) -> None:
    """Picture read first, then the text: the release's LayerNorm maximum then is another one, hence 1e-3."""
    run = load_file(FIXTURES / "caption_score.safetensors")
    form = SequenceFormat(
        kind="image_to_text", vocabulary=VOCABULARY, text_slots=40, grid=(32, 32), image_positions="index"
    )
    scorer = Scorer(Engine(pack(model, text_rows(VOCABULARY, 256))), form)
    codes, texts = run["seq"][:, 2:1026].numpy(), run["seq"][:, 1028:].numpy() - 64
    pairs = [(i, i) for i in range(3)]
    found = scorer.score(list(codes), texts.tolist(), pairs, released=True)
    assert found == pytest.approx(run["scores"].numpy(), abs=1e-3)
