"""A CogLM that starts from a model that only draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.sequences import CogLMFormat, SequenceFormat
from cogview.training.expand import position_rows, token_rows
from cogview.training.launch import prepare_directory
from cogview.training.tasks.coglm import CogLMTask
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.trainer import Trainer
from cogview.transformer.attention import Prefix
from cogview.transformer.model import Transformer
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary
from tests.training.coglm_runs import recipe as coglm_recipe
from tests.training.runs import VOCABULARY, caption, picture, recipe, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tokens"), caption, VOCABULARY, "1" * 16, "2" * 64)


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that only draws."""
    directory = tmp_path_factory.mktemp("runs") / "base"
    asked = recipe(data, steps=2, model={"layers": 2, "hidden": 32, "heads": 2, "norm_relax": "none"})
    prepare_directory(asked, directory, False)
    Trainer(TransformerTask(asked), asked, directory).fit(False)
    return directory


def started(data: Path, init: Path, **changes: object) -> tuple[Transformer, CogLMTask]:
    task = CogLMTask(
        coglm_recipe(data, init=str(init), format={"text_slots": 6, "image_start": 20}, **changes)
    )
    model = task.build()
    assert isinstance(model, Transformer)
    task.initialize(model, init)
    return model.eval(), task


def test_what_it_reads_is_what_the_base_read(data: Path, base: Path) -> None:
    """A text and a picture in either arrangement embed to the same vectors, and all layers are the same."""
    model, task = started(data, base)
    old = Transformer.from_directory(base / "model").eval()
    words, codes = list(caption(2, "en").pieces), picture(2)
    before = task.start.sequences
    assert isinstance(before, SequenceFormat)
    whole, now = before.training(words, codes), task.format.drawing(words, codes)
    given = [(torch.from_numpy(x.ids)[None], torch.from_numpy(x.positions)[None]) for x in (whole, now)]
    vectors, found = old.embed(*given[0])[0], model.embed(*given[1])[0]
    kept = [*range(1, 1 + len(words)), *range(len(words) + 2, len(words) + 7)]  # no [ROI1], [BASE], [EOI1]
    torch.testing.assert_close(found, vectors[kept])
    weights = old.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in model.state_dict().items() if "block" in name
    )


def test_the_rows_by_hand() -> None:
    old = SequenceFormat(vocabulary=Vocabulary(image_codes=8, text_pieces=20), text_slots=6, grid=(2, 2))
    controls = (*COGVIEW2_CONTROLS, "<end>")
    vocabulary = Vocabulary(image_codes=8, text_pieces=20, controls=controls)
    new = CogLMFormat(vocabulary=vocabulary, text_slots=5, grid=(2, 2), end="<end>")
    tokens = token_rows(old, new)
    assert {i: tokens[i] for i in range(28, 32)} == {28: 29, 29: 35, 30: 35, 31: 32}
    assert tokens[0] == 0 and tokens[27] == 27
    assert position_rows(old, new) == {0: 1, 1: 2, 2: 3, 3: 4, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11}


def test_places_weigh_what_the_recipe_says(data: Path) -> None:
    """Only the last code counts: all other codes' weights are 0, whatever the strategy."""
    cells = [[0, 0], [0, 5]]
    task = CogLMTask(coglm_recipe(data, cell_weights=cells))
    batch, _ = next(task.loader(None))
    plain, _ = next(CogLMTask(coglm_recipe(data)).loader(None))
    weights, first = batch["weights"].flatten(), task.format.begin_position + 1
    places = batch["positions"].flatten()[batch["image_at"] + 1] - first
    assert (weights[batch["image_at"]] == torch.where(places == 3, 5.0, 0.0)).all() and (places == 3).any()
    assert torch.equal(weights[batch["text_at"]], plain["weights"].flatten()[batch["text_at"]])


def test_what_does_not_fit_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match=r"lower format\.text_slots"):
        started_with(data, base, format={"text_slots": 9})
    with pytest.raises(CogViewError, match=r"is .* there, the recipe's model has"):
        wide = {"layers": 2, "hidden": 64, "heads": 2, "norm_relax": "none"}
        started_with(data, base, model=wide, format={"text_slots": 6})
    with pytest.raises(CogViewError, match="cell_weights"):
        CogLMTask(coglm_recipe(data, cell_weights=[[1.0]])).build()
    other = write_data(
        tmp_path / "other", caption, Vocabulary(image_codes=9, text_pieces=20), "1" * 16, "2" * 64
    )
    with pytest.raises(CogViewError, match="cannot start from"):
        started_with(other, base, format={"text_slots": 6})


def started_with(data: Path, init: Path, **changes: object) -> None:
    task = CogLMTask(coglm_recipe(data, init=str(init), **changes))
    task.initialize(task.build(), init)


def test_it_trains_on_and_describes_what_it_is(data: Path, base: Path, tmp_path: Path) -> None:
    asked = coglm_recipe(
        data, init=str(base), model=None, format={"text_slots": 6}, steps=2, intervals={"sample": 0}
    )
    prepare_directory(asked, tmp_path / "run", False)
    Trainer(CogLMTask(asked), asked, tmp_path / "run").fit(False)
    again = CogLMTask(validate(type(asked), asked.model_dump() | {"init": tmp_path / "run"}, "again"))
    assert isinstance(again.start.sequences, CogLMFormat)
    model = again.build()
    again.initialize(model, tmp_path / "run")
    stored = Transformer.from_directory(tmp_path / "run" / "model")
    ids, positions = torch.tensor([[1, 2]]), torch.tensor([[0, 1]])
    states = [x.eval()(ids, positions, Prefix(2)) for x in (model, stored)]
    torch.testing.assert_close(states[0], states[1])
