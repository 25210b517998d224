"""Training the transformer on a tiny data set whose pictures are a function of their captions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogview.cli.app import main
from cogview.config import dump_yaml
from cogview.data.shards import (
    TokenCaption,
)
from cogview.errors import CogViewError
from cogview.sequences import SequenceFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.training.checkpoint.directory import latest_checkpoint
from cogview.training.metrics_file import MetricsFile
from cogview.training.objective import sequence_loss
from cogview.training.recipe import Intervals
from cogview.training.sample_sheet import contact_sheet
from cogview.training.tasks.transformer import TransformerTask, make_batch
from cogview.transformer.attention import ThreeRegion, sample_pivots
from cogview.transformer.config import ThreeRegionConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary
from tests.training.runs import FIXED, VOCABULARY, fit, picture, recipe, write_data


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 150, "optimizer": {"lr": 0.02}},
        {"steps": 150, "optimizer": {"lr": 0.02}, "softmax": "full", "activation_checkpointing": True},
        {"optimizer": {"kind": "muon", "lr": 0.01}, "format": {"text_slots": 6, "visibility": "prefix"}},
    ],
    ids=["adamw", "full", "muon prefix"],
)
def test_learns_to_draw_what_the_caption_says(data: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Told the kind, a picture has no entropy left; untold, its four codes have log(4)."""
    lines = fit(recipe(data, **fields), tmp_path / "run")
    last = [line for line in lines if line["kind"] == "evaluate"][-1]
    assert last["step"] in (60, 150) and last["image_loss"] < 0.2 < np.log(4) / 4


def test_draws_samples_of_its_prompts(tmp_path: Path) -> None:
    """What a trained model draws greedily is what the prompt says, painted by the image tokenizer."""
    names = ("one cat", "two dogs", "red hill", "blue sky")
    texts = TextTokenizer.train([*names, " ".join(names)] * 20, 278)
    texts.save(tmp_path / "text.model")
    torch.manual_seed(0)
    shape = {"image_size": 8, "factors": (4,), "channels": (8,), "blocks": (0,), "codes": 8, "code_dim": 4}
    ImageTokenizer(ImageTokenizerConfig.model_validate({**shape, "attention": False})).save(
        tmp_path / "images"
    )
    images = ImageTokenizer.from_directory(tmp_path / "images")

    def named(kind: int, language: str) -> TokenCaption:
        return TokenCaption(tuple(texts.encode(names[kind])), language, "plain")

    vocabulary = Vocabulary(image_codes=8, text_pieces=texts.pieces)
    data = write_data(tmp_path / "tokens", named, vocabulary, images.fingerprint, texts.fingerprint)
    asked = {
        "image_tokenizer": tmp_path / "images", "text_tokenizer": tmp_path / "text.model",
        "prompts": names, "each": 3, "sampling": {"top_k": 1},
    }  # fmt: skip
    fields = {"samples": asked, "format": {"text_slots": 16}, "optimizer": {"kind": "muon", "lr": 0.01}}
    intervals = {"evaluate": 0, "sample": 120, "checkpoint": 120}
    fit(recipe(data, steps=120, intervals=intervals, **fields), tmp_path / "run")
    drawn = Image.open(tmp_path / "run" / "samples" / "samples-00000120.png")
    codes = np.repeat([picture(kind) for kind in range(4)], 3, axis=0)
    with torch.no_grad():
        expected = contact_sheet(images.decode(torch.from_numpy(codes)), 3)
    assert drawn.size == (24, 32) and drawn.tobytes() == expected.tobytes()
    few = {"evaluate": 4, "sample": 4, "checkpoint": 4}
    fit(recipe(data, steps=4, intervals=few, precision="fp16-o2", **fields), tmp_path / "half")
    assert Image.open(tmp_path / "half" / "samples" / "samples-00000004.png").size == (24, 32)
    with pytest.raises(CogViewError, match=r"samples\.text_tokenizer"):
        foreign = write_data(tmp_path / "other", named, vocabulary, images.fingerprint, "2" * 64)
        TransformerTask(recipe(foreign, **fields)).build()


def test_contact_sheet_is_row_by_row() -> None:
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 3, 1, 2) / 255
    assert np.asarray(contact_sheet(images, 3))[..., 0].tolist() == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]


def test_evaluation_of_an_untrained_model_is_uniform(data: Path) -> None:
    task = TransformerTask(recipe(data))
    torch.manual_seed(0)
    model = task.build().eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        found = task.evaluate(model)
    assert found["image_loss"] == pytest.approx(np.log(8), rel=1e-5)
    assert found["text_loss"] == pytest.approx(np.log(20 + 27), rel=1e-5)


def test_exported_model_loads_and_says_what_it_is(data: Path, tmp_path: Path) -> None:
    given = recipe(data, steps=3)
    fit(given, tmp_path / "run")
    task, model = TransformerTask(given), Transformer.from_directory(tmp_path / "run" / "model")
    with torch.no_grad():
        again = task.evaluate(model)
    logged = MetricsFile(tmp_path / "run" / "metrics.jsonl").lines()[-1]
    assert again["loss"] == pytest.approx(logged["loss"], rel=1e-3)  # exported in fp16
    facts = (tmp_path / "run" / "model" / "training.json").read_text()
    assert task.shards.index.text_tokenizer in facts


def test_resumes_exactly(data: Path, tmp_path: Path) -> None:
    fit(recipe(data, steps=60), tmp_path / "whole")
    fit(recipe(data, steps=60, max_minutes=1e-9), tmp_path / "run")
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    fit(recipe(data, steps=60), tmp_path / "run", resume=True)
    curves = [
        [line["loss"] for line in MetricsFile(tmp_path / name / "metrics.jsonl").lines()]
        for name in ("whole", "run")
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("first", "then"), [("fp32", "bf16"), ("bf16", "fp32"), ("fp32", "auto")])
def test_a_checkpoint_goes_on_in_another_precision(data: Path, tmp_path: Path, first: str, then: str) -> None:
    """Weights and optimizer are fp32 in every one; the loss goes on from where it was."""
    given = {
        "steps": 60,
        "optimizer": {"kind": "muon", "lr": 0.01},
        "ema": 0.9,
        "intervals": Intervals(log=1),
    }
    fit(recipe(data, **given, precision="fp32"), tmp_path / "whole")
    fit(recipe(data, **given, precision=first, max_minutes=1e-9), tmp_path / "run")
    state = latest_checkpoint(tmp_path / "run" / "checkpoints", print)
    assert state is not None and state.tensors["model"]["tokens.weight"].dtype == torch.float32
    fit(recipe(data, **given, precision=then), tmp_path / "run", resume=True)
    curves = [
        [line["loss"] for line in MetricsFile(tmp_path / name / "metrics.jsonl").lines() if "loss" in line]
        for name in ("whole", "run")
    ]
    assert curves[1][:5] == pytest.approx(curves[0][:5], rel=0.02) and curves[1] != curves[0]
    assert np.mean(curves[1][-20:]) == pytest.approx(np.mean(curves[0][-20:]), rel=0.1)


def test_a_batch_by_hand() -> None:
    format = SequenceFormat(vocabulary=VOCABULARY, text_slots=6, grid=(2, 2))
    codes = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    batch = make_batch(format, {"codes": codes, "texts": [[3], [4, 5]], "items": [0, 1]}, multiple=4)
    roi, base, boi, eoi = (VOCABULARY.control(name) for name in ("[ROI1]", "[BASE]", "[BOI1]", "[EOI1]"))
    pad = VOCABULARY.control("[PAD]")
    first = [roi, 8 + 3, base, boi, 1, 2, 3, 4, eoi]
    second = [roi, 8 + 4, 8 + 5, base, boi, 5, 6, 7, 0, eoi]
    assert batch["inputs"][:, :9].tolist() == [first, second[:9]]
    assert batch["targets"][1, :9].tolist() == second[1:]
    assert batch["targets"][0, :8].tolist() == first[1:] and batch["targets"].shape == (2, 12)
    assert (batch["inputs"][:, 9:] == pad).all() and batch["weights"].sum() == 8 + 9
    assert batch["targets"].flatten()[batch["image_at"]].tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert len(batch["text_at"]) == 17 - 8
    image = batch["positions"][0, 2:9], batch["positions"][1, 3:10]  # [BASE] and all after it
    assert image[0].tolist() == list(range(6, 13)) and image[1][:6].tolist() == list(range(6, 12))


def test_padding_does_not_change_the_loss(data: Path) -> None:
    given = recipe(data)
    task = TransformerTask(given)
    model = task.build()
    tokens = {"codes": torch.tensor([[1, 2, 3, 4]]), "texts": [[3]], "items": [0]}
    losses = [
        task.loss(model, make_batch(task.format, tokens, multiple), 0, "model")[0].item()
        for multiple in (1, 16)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("visibility", ["causal", "prefix"])
def test_rows_in_groups_of_one_length_learn_the_same_from_fewer_places(data: Path, visibility: str) -> None:
    texts = [[3], [1, 2, 3, 4, 5], [4, 2], [2, 1, 4], [1], [2, 3]]
    codes = torch.arange(24).view(6, 4) % 8
    tokens = {"codes": codes, "texts": texts, "items": list(range(6))}
    fields = {"text_slots": 8, "visibility": visibility}
    grouped, whole = (TransformerTask(recipe(data, rows_at_once=n, format=fields)) for n in (2, None))
    batch, model = make_batch(whole.format, tokens), whole.build().double().train()
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    found = []
    for task in (grouped, whole):
        loss, parts = task.loss(model, batch, 0, "model")
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append([loss, parts["image_loss"], parts["text_loss"], *gradients])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    full = batch["inputs"].shape[1]
    assert shapes == [(2, full - 3), (2, full - 2), (2, full), (6, full)]


def test_rows_in_groups_and_sparse_attention_exclude_each_other(data: Path) -> None:
    with pytest.raises(CogViewError, match="rows_at_once is for attention causal"):
        recipe(data, attention=SPARSE, rows_at_once=2)


def test_given_sizes_must_hold_the_data(data: Path) -> None:
    task = TransformerTask(recipe(data, model={**FIXED, "max_positions": 5}))
    with pytest.raises(CogViewError, match=r"model\.max_positions"):
        task.config()
    config = TransformerTask(recipe(data, model={**FIXED, "vocab_size": 256})).config()
    assert config.vocab_size == 256 and config.max_positions == 6 + 3 + 4


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": {"layers": 2, "hidden": 33, "heads": 2}}, "model"),
        ({"model": {"layers": 2, "hidden": 32, "heads": 2, "depth": 3}}, "model.depth"),
        ({"format": {"text_weight": 0, "image_weight": 0}}, "format"),
        ({"mixture": {"style": 2}}, "mixture"),
        ({"softmax": "half"}, "softmax"),
        ({"samples": {"prompts": []}}, "samples"),
    ],
)
def test_mistakes_are_named(data: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(CogViewError, match=named):
        recipe(data, **fields)


def test_command_trains_and_resumes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(dump_yaml(recipe(data, steps=4)))
    begin = ["train", str(path), "--out", str(out)]
    assert main([*begin, "--set", "max_minutes=1e-9"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"cogview train {path} --out {out} --set max_minutes=1e-9 --resume" in said
    assert main(["train", "--out", str(out), "--set", "max_minutes=null", "--resume"]) == 0
    assert (out / "model" / "model.safetensors").is_file()
    capsys.readouterr()
    assert main([*begin, "--set", "seed=5", "--resume"]) == 2
    assert "seed was 0 and is now 5" in capsys.readouterr().err
    assert main(["train"]) == 2
    assert "give a recipe" in capsys.readouterr().err


def test_cell_weights_weigh_the_codes_of_a_place(data: Path) -> None:
    """Weight 0 everywhere but one place: the loss is the mean of that place's cross-entropies."""
    weights = ((0.0, 0.0), (3.0, 0.0))
    task = TransformerTask(recipe(data, cell_weights=weights, format={"text_slots": 6, "text_weight": 0}))
    plain = TransformerTask(recipe(data, format={"text_slots": 6, "text_weight": 0}))
    batch, other = next(iter(task.loader(None)))[0], next(iter(plain.loader(None)))[0]
    torch.manual_seed(0)
    model = task.build().eval()
    loss, parts = task.loss(model, batch, 0, "model")
    hidden = model(other["inputs"], other["positions"])
    logits = model.logits(hidden)[..., :8].flatten(0, 1)[other["image_at"]]
    each = torch.nn.functional.cross_entropy(
        logits, other["targets"].flatten()[other["image_at"]], reduction="none"
    )
    torch.testing.assert_close(loss, each.view(-1, 4)[:, 2].mean())
    torch.testing.assert_close(parts["image_loss"], each.mean())


def test_cell_weights_of_another_grid_are_refused(data: Path) -> None:
    with pytest.raises(CogViewError, match="cell_weights: 1 rows"):
        TransformerTask(recipe(data, cell_weights=((1.0, 1.0),))).build()


SPARSE = {"kind": "three_region", "window": 2, "times": 2, "pivots": 9}


def test_a_name_chooses_sparse_attention_with_the_released_sizes(data: Path) -> None:
    assert recipe(data, attention="three_region").attention == ThreeRegionConfig(
        window=128, times=6, pivots=768
    )
    assert recipe(data).attention == "causal"


@pytest.mark.parametrize(
    ("attention", "named"),
    [
        ("three_region", r"attention: a window of 128 x 6 sees all"),
        ({"kind": "three_region", "window": 2, "times": 2, "pivots": 3}, r"attention\.pivots: 3"),
        ({"kind": "three_region", "window": 2, "times": 2, "pivots": 200}, r"attention\.pivots: 200"),
    ],
)
def test_sparse_attention_that_cannot_work_is_told_before_training(
    data: Path, attention: object, named: str
) -> None:
    with pytest.raises(CogViewError, match=named):
        TransformerTask(recipe(data, attention=attention)).build()


def test_sparse_attention_and_a_prefix_exclude_each_other(data: Path) -> None:
    with pytest.raises(CogViewError, match="visibility is prefix"):
        recipe(data, attention=SPARSE, format={"text_slots": 6, "visibility": "prefix"})


def wide_batch(task: TransformerTask) -> dict[str, torch.Tensor]:
    """Two sequences of a 4 x 4 picture, with texts of one and three pieces."""
    codes = torch.arange(32).view(2, 16) % 8
    return make_batch(task.format, {"codes": codes, "texts": [[3], [1, 5, 7]], "items": [0, 1]})


def test_sparse_training_equals_a_dense_mask_written_out(data: Path) -> None:
    """Pivots recovered from the generator; the loss is that of the mask they make, evaluation is causal."""
    given = recipe(data, attention=SPARSE)
    task = TransformerTask(given)
    task.format = task.format.model_copy(update={"grid": (4, 4)})
    model, batch = Transformer(task.config()), wide_batch(task)
    torch.manual_seed(4)
    loss = task.loss(model.train(), batch, 0, "model")[0]
    ids, length = batch["inputs"], batch["inputs"].shape[1]
    image = ids < VOCABULARY.image_codes
    text = ~image & (ids != VOCABULARY.control("[PAD]"))
    torch.manual_seed(4)
    pivots = sample_pivots(text, image, 9, 2)
    hidden = model.embed(ids, batch["positions"])
    for layer, block in enumerate(model.blocks):
        hidden = block(hidden, ThreeRegion(2, 2, pivots).dense_view(length, length, None, layer))
    dense = batch["targets"], batch["weights"]
    places = batch["image_at"], batch["text_at"]
    expected, _ = sequence_loss(
        model.logits, model.norm(hidden), *dense, VOCABULARY, softmax=given.softmax, places=places
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    again, evaluated = (task.loss(m, batch, 0, "model")[0].item() for m in (model.train(), model.eval()))
    causal = TransformerTask(recipe(data))
    causal.format = task.format
    assert evaluated == pytest.approx(causal.loss(model, batch, 0, "model")[0].item(), rel=1e-6)
    assert abs(again - loss.item()) > 1e-6 < abs(evaluated - loss.item())  # other pivots; no pivots
