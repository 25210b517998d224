"""R-precision and retrieval against brute force, a scorer that learns the toy corpus, and runs in shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from cogview.checkpoints.provenance import Provenance, save_png
from cogview.cli.app import main
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.experiments.alignment import (
    AlignmentPlan,
    AlignmentReport,
    evaluate_alignment,
    measure,
    r_precision,
    recall,
    shuffled,
)
from cogview.evaluation.experiments.nearest import RetrievalBaseline
from cogview.evaluation.judges.captioned import read_captioned
from cogview.evaluation.judges.scorer import DualEncoder, ScorerConfig
from cogview.evaluation.judges.scorer_training import (
    ScorerTraining,
    batches,
    caption_matches,
    contrastive_loss,
    train_scorer,
)
from cogview.evaluation.sample_store import parse_rank
from cogview.tokenizers.text import TextTokenizer
from tests.evaluation import toy

SHAPE = Preprocessing(size=toy.SIZE, resample="box")
SMALL = {"size": 24, "widths": (8, 16, 24), "blocks": (0, 0, 0), "hidden": 24, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return TextTokenizer.train([t for row in toy.rows() for t in (row["en"], row["zh"])], pieces=420)


def config(text: TextTokenizer) -> ScorerConfig:
    facts = {"pieces": text.pieces, "text_tokenizer": text.fingerprint, "preprocessing": SHAPE}
    return ScorerConfig.model_validate({**SMALL, **facts})


@pytest.fixture(scope="module")
def scorer(corpus: Path, text: TextTokenizer) -> DualEncoder:
    data = read_captioned(corpus, SHAPE, "train")
    training = ScorerTraining(epochs=14, batch=32, rate=8e-3, spoil=False)
    return train_scorer(config(text), text, data, training)


def unit(rows: int, seed: int) -> NDArray[np.float64]:
    vectors = np.random.default_rng(seed).normal(size=(rows, 5))
    found: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def test_recall_and_r_precision_are_counted_right() -> None:
    """Against loops; texts 1 and 4 are the same words."""
    texts = ["a", "b", "c", "d", "b", "e"]
    fit, right = unit(6, 0) @ unit(6, 1).T, caption_matches(texts, [[text] for text in texts])
    for k in (1, 2, 4):
        for table, hits in ((fit, recall(fit, right, k)), (fit.T, recall(fit.T, right.T, k))):
            for row in range(6):
                wrong = sorted((table[row, j] for j in range(6) if texts[j] != texts[row]), reverse=True)
                best = max(table[row, j] for j in range(6) if texts[j] == texts[row])
                assert hits[row] == (sum(value >= best for value in wrong) < k)
    precise, choices = r_precision(fit, right, AlignmentPlan(distractors=99))
    assert choices == 5  # pictures 1 and 4 have four texts of others
    alone = [i for i in (1, 4) if all(fit[i, j] < fit[i, i] for j in range(6) if texts[j] != "b")]
    assert [i for i in (1, 4) if precise[i]] == alone


def test_one_distractor_of_chance_is_half_right() -> None:
    fit = np.random.default_rng(0).normal(size=(2000, 2000))
    precise, choices = r_precision(fit, np.eye(2000, dtype=np.bool_), AlignmentPlan(distractors=4))
    assert choices == 5 and precise.mean() == pytest.approx(1 / 5, abs=0.03)


def test_perfect_vectors_are_perfect_and_their_shuffle_is_not() -> None:
    vectors, texts = unit(40, 3), [str(i) for i in range(40)]
    plan = AlignmentPlan(bootstrap=50)
    found, floor = (
        measure(vectors, vectors, texts, plan),
        measure(vectors, vectors, texts, plan, shuffled(texts, 0)),
    )
    assert found.r_precision.value == found.picture_recall[1].value == 1 and found.choices == 40
    assert found.r_precision.low == 1 and found.cosine.value == pytest.approx(1)
    assert floor.r_precision.value == 0 and floor.cosine.value < 0.5


def test_the_interval_covers_the_share_it_was_drawn_from() -> None:
    """Half the pictures match: 95 % of 400 coin throws lie within 0.05."""
    vectors = np.eye(400)
    read = vectors[[i if i % 2 else (i + 2) % 400 for i in range(400)]]
    found = measure(vectors, read, [str(i) for i in range(400)], AlignmentPlan(bootstrap=2000)).r_precision
    assert found.value == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 400), rel=0.1)


def test_shuffled_texts_are_never_a_pictures_own() -> None:
    texts = ["a", "b", "a", "c", "a"]
    assert all(texts[j] != text for text, j in zip(texts, shuffled(texts, 1), strict=True))


def test_contrast_is_cross_entropy_and_shares_equal_texts() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 6), torch.arange(6)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(6, dtype=torch.bool)), expected)
    true = torch.eye(2, dtype=torch.bool)
    true[0, 1] = True
    rows, columns = torch.zeros(2, 2).log_softmax(1), torch.zeros(2, 2).log_softmax(0)
    halves = -(rows[0].mean() + rows[1, 1]) / 2 - (columns[0, 0] + columns[:, 1].mean()) / 2
    torch.testing.assert_close(contrastive_loss(torch.zeros(2, 2), true), halves / 2)


def test_batches_hold_each_picture_once_and_every_other_is_of_one_source(corpus: Path) -> None:
    data = read_captioned(corpus, SHAPE, "train")
    data = data.rows(list(range(100)))
    mixed = type(data)(data.images, data.keys, ["ab"[i % 2] for i in range(100)], data.texts, data.languages)
    found = list(batches(mixed, 6, ScorerTraining(batch=20)))
    assert all(len(set(rows)) == 20 for rows, _ in found)
    assert [len({mixed.sources[row] for row in rows}) for rows, _ in found] == [2, 1, 2, 1, 2, 1]
    assert len({row for rows, _ in found[::2] for row in rows}) == 60


def test_it_learns_and_real_is_far_above_shuffled(corpus: Path, scorer: DualEncoder, tmp_path: Path) -> None:
    data = read_captioned(corpus, SHAPE, "val")
    found = evaluate_alignment(AlignmentPlan(), data, scorer)
    assert found is not None
    sets = found[0].sets
    for language in ("zh", "en"):
        real, floor = sets[f"real {language}"], sets[f"real {language}, shuffled"]
        assert real.picture_recall[5].low > floor.picture_recall[5].high
        assert real.cosine.value > floor.cosine.value + 0.3
    scorer.save(tmp_path)
    again = DualEncoder.from_directory(tmp_path)
    assert again.fingerprint == scorer.fingerprint
    assert np.array_equal(again.encode_image(data.images), scorer.encode_image(data.images))


def test_a_text_does_not_depend_on_its_batch(scorer: DualEncoder) -> None:
    texts = ["red circle", "flag with green standing bands, number 12, and much more to be read than before"]
    assert np.allclose(scorer.encode_text(texts)[0], scorer.encode_text(texts[:1])[0], atol=1e-6)


def test_two_ranks_and_one_give_the_same_digits(corpus: Path, scorer: DualEncoder, tmp_path: Path) -> None:
    data = read_captioned(corpus, SHAPE, "test_comp", count=12)
    plan, drawer = AlignmentPlan(batch=3, languages=("en",)), toy.CaptionDrawer()
    whole = evaluate_alignment(plan, data, scorer, [drawer], tmp_path / "one")
    first, second = toy.CaptionDrawer(), toy.CaptionDrawer()
    assert evaluate_alignment(plan, data, scorer, [first], tmp_path / "two", (0, 2)) is None
    shared = evaluate_alignment(plan, data, scorer, [second], tmp_path / "two", (1, 2))
    assert whole is not None and shared is not None and shared[0] == whole[0]
    assert len(first.drawn) == len(second.drawn) == 6
    again = toy.CaptionDrawer()
    repeated = evaluate_alignment(plan, data, scorer, [again], tmp_path / "two")
    assert repeated is not None and repeated[0] == whole[0] and not again.drawn
    drawn, floor = (whole[0].sets[f"caption drawer en{end}"] for end in ("", ", shuffled"))
    assert drawn.cosine.value > floor.cosine.value + 0.2
    with pytest.raises(CogViewError, match="--rank 3/2: expected I/N"):
        parse_rank("3/2")


def test_the_nearest_training_picture_shares_the_words(corpus: Path, text: TextTokenizer) -> None:
    drawer = RetrievalBaseline(corpus, text)
    data = read_captioned(corpus, SHAPE, "train")
    row = {key: i for i, key in enumerate(data.keys)}
    for i in (0, 7, 31):
        prompt = data.texts[i][1]  # word for word a training caption
        assert row[drawer.records[drawer.nearest(prompt)].key] == i
        picture = drawer.generate([prompt], 0, {})[0].resize((toy.SIZE,) * 2, Image.Resampling.BOX)
        assert np.array_equal(np.asarray(picture), data.images[i])
    found = drawer.records[drawer.nearest("blue square")].captions
    assert any(caption.text.startswith("blue square") for caption in found)


def test_the_commands(
    corpus: Path, scorer: DualEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, text = tmp_path / "scorer", tmp_path / "text.model"
    scorer.text.save(text)
    learn = ["eval", "train-scorer", "--data", str(corpus), "--text-tokenizer", str(text), "--size", "24"]
    learn += ["--epochs", "1", "--batch", "16", "--limit", "64", "--out", str(place)]
    assert main(learn) == 0 and "64 images, 4 steps" in capsys.readouterr().out
    assert main(learn) == 0 and "up to date" in capsys.readouterr().out
    ask = ["eval", "alignment", "--scorer", str(place), "--data", str(corpus), "--split", "val", "-n", "8"]
    ask += [
        "--model",
        "nearest-training",
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "a.json"),
    ]
    assert main([*ask, "--sheet", str(tmp_path / "a.png")]) == 0
    report = AlignmentReport.model_validate_json((tmp_path / "a.json").read_bytes())
    assert set(report.sets) == {
        f"{name} {language}{end}"
        for language in ("zh", "en")
        for name, end in (("real", ""), ("nearest-training", ""), ("nearest-training", ", shuffled"))
    }
    assert "± half of the 95 % interval" in capsys.readouterr().out


def test_a_folder_of_drawn_pictures_tells_its_prompts(scorer: DualEncoder, tmp_path: Path) -> None:
    for i, prompt in enumerate(("red circle", "蓝色的方块")):
        facts = Provenance(software="t", prompt=prompt, seed=0, model="m", model_hash="h")
        save_png(Image.new("RGB", (30, 24), "red"), tmp_path / f"{i}.png", facts)
    found = read_captioned(tmp_path, SHAPE)
    assert found.texts == [["red circle"], ["蓝色的方块"]] and found.languages == [["en"], ["zh"]]
    with pytest.raises(CogViewError, match="1 images have a caption in 'en', 2 are needed"):
        evaluate_alignment(AlignmentPlan(languages=("en",)), found, scorer)
    for i, prompt in enumerate(("blue square", "green circle")):
        facts = Provenance(software="t", prompt=prompt, seed=0, model="m", model_hash="h")
        save_png(Image.new("RGB", (30, 24), "green"), tmp_path / f"more-{i}.png", facts)
    report = evaluate_alignment(AlignmentPlan(), read_captioned(tmp_path, SHAPE), scorer)
    assert report is not None and report[0].manifest.plan.languages == ("en",)
    assert report[0].sets["real en"].pictures == 3


def test_bad_input_is_one_line(corpus: Path, scorer: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    with pytest.raises(CogViewError, match="1 captioned images"):
        read_captioned(folder, SHAPE)
    Image.new("RGB", (9, 9)).save(folder / "b.png")
    with pytest.raises(CogViewError, match=r"a\.png: no caption; write one beside"):
        read_captioned(folder, SHAPE)
    for name in "ab":
        (folder / f"{name}.txt").write_text("the same", "utf-8")
    with pytest.raises(CogViewError, match="not all the same"):
        evaluate_alignment(AlignmentPlan(languages=("en",)), read_captioned(folder, SHAPE), scorer)
    (folder / "b.png").write_bytes(b"broken")
    with pytest.raises(CogViewError, match=r"b\.png: the image is broken"):
        read_captioned(folder, SHAPE)
    with pytest.raises(CogViewError, match="fewer than one batch"):
        train_scorer(
            scorer.config, scorer.text, read_captioned(corpus, SHAPE, count=3), ScorerTraining(batch=4)
        )


def test_foreign_scorers_are_refused(scorer: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="train-scorer"):
        DualEncoder.from_directory(tmp_path)
    scorer.save(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CogViewError, match="damaged or not a scorer"):
        DualEncoder.from_directory(tmp_path)
    TextTokenizer.train(toy.COLOURS.values(), pieces=264).save(tmp_path / "text.model")
    with pytest.raises(CogViewError, match="not the tokenizer the scorer was trained with"):
        DualEncoder.from_directory(tmp_path)
