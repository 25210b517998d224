"""Recipes: what is wrong is said in one line that names file and field, before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cogview.config import read_yaml, validate
from cogview.errors import CogViewError
from cogview.training import registry
from cogview.training.launch import pick_device, prepare_directory
from cogview.training.optim import AdamWConfig, MuonConfig
from cogview.training.recipe import Recipe, check_same, write_recipe
from cogview.training.registry import read_recipe
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.training.tiny import TinyRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
TRAINING = sorted(
    path for path in RECIPES.rglob("*.yaml") if path.parent.name != "fairness"
)  # those are audits

SIZES = {"layers": 1, "hidden": 16, "heads": 2}


@pytest.fixture(autouse=True)
def _tiny_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TASKS, "tiny", "tests.training.tiny:TinyTask")


def write(path: Path, **fields: Any) -> Path:
    path.write_text(yaml.safe_dump({"task": "tiny", "name": "x", "steps": 10, **fields}))
    return path


def test_overrides_apply_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", optimizer={"lr": 1e-3})
    found = read_recipe(path, ["optimizer.lr=3e-4", "steps=5", "steps=7", "optimizer.betas=[0.8, 0.9]"])
    assert isinstance(found, TinyRecipe) and found.steps == 7
    assert found.optimizer == AdamWConfig(lr=3e-4, betas=(0.8, 0.9))


def test_optimizer_by_kind(tmp_path: Path) -> None:
    found = read_recipe(write(tmp_path / "r.yaml", optimizer={"kind": "muon", "lr": 0.02}))
    assert found.optimizer == MuonConfig(kind="muon", lr=0.02)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"stepss": 3}, "stepss"),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.adamw.momentum"),
        ({"optimizer": {"kind": "muon", "lr": -1}}, "optimizer.muon.lr"),
        ({"optimizer": {"kind": "sgd"}}, "optimizer"),
        ({"schedule": {"warmup": 0.9, "hold": 0.9}}, "schedule"),
        ({"precision": "fp8"}, "precision"),
        ({"loss_scaler": {"window": 5}}, "loss_scaler"),
        ({"parallel": {"kind": "ddp", "zero": 2}}, "zero 2 is for fsdp"),
        ({"parallel": {"sync": "every"}}, "sync is for ddp"),
        ({"intervals": {"checkpoint": 0, "minutes": None}}, "intervals"),
        ({"device": "tpu"}, "device"),
        ({"name": "../x"}, "name"),
        ({"task": "poetry"}, "task"),
    ],
)
def test_one_line_names_file_and_field(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    path = write(tmp_path / "r.yaml", **fields)
    with pytest.raises(CogViewError) as caught:
        read_recipe(path)
    message = str(caught.value)
    assert str(path) in message and named in message and "\n" not in message


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        (
            "cogview2-coglm",
            ["strategies.regions=released", "strategies.share=0.5"],
            "it is not used with these settings",
        ),
        ("cogview2-coglm", ["strategies.edited=boxes"], "edited boxes is for editing, which is 0"),
        ("image_tokenizer", ["restart_every=0", "restart_until=0.5"], "restart_until does nothing"),
        ("image_tokenizer", ["loss.adversarial_start=0.1"], "adversarial_start does nothing"),
        ("cogview-paper", ["model.numerics=fused"], "attention_relax 32 does nothing"),
        ("cogview-paper", ["precision=bf16"], "loss_scaler is for fp16"),
    ],
)
def test_recipes_refuse_what_would_do_nothing(name: str, fields: list[str], said: str) -> None:
    with pytest.raises(CogViewError, match=said):
        read_recipe(RECIPES / f"{name}.yaml", fields)


def test_written_recipe_reads_back(tmp_path: Path) -> None:
    found = read_recipe(
        write(tmp_path / "r.yaml", optimizer={"kind": "muon", "split": {"qkv": 3}}, init="/a/b")
    )
    write_recipe(found, tmp_path / "saved.yaml")
    assert read_recipe(tmp_path / "saved.yaml") == found


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"optimizer": {"lr": 1e-3}}, "optimizer.lr"),
        ({"optimizer": {"kind": "muon"}}, "optimizer"),
        ({"dropout": 0.3}, "dropout"),
    ],
)
def test_changed_recipe_is_refused_by_name(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    path = write(tmp_path / "r.yaml")
    prepare_directory(read_recipe(path), tmp_path / "run", resume=False)
    with pytest.raises(CogViewError) as caught:
        prepare_directory(read_recipe(write(tmp_path / "r.yaml", **change)), tmp_path / "run", resume=True)
    assert field in str(caught.value) and "max_minutes" in str(caught.value)


def test_some_fields_may_change(tmp_path: Path) -> None:
    before = read_recipe(write(tmp_path / "r.yaml"))
    fields = {
        "intervals": {"log": 2},
        "keep": 9,
        "max_minutes": 3,
        "threads": 2,
        "device": "cpu",
        "prefetch": 0,
    }
    after = read_recipe(write(tmp_path / "r.yaml", **fields))
    check_same(before, after, tmp_path)
    prepare_directory(before, tmp_path / "run", resume=False)
    prepare_directory(after, tmp_path / "run", resume=True)
    assert read_recipe(tmp_path / "run" / "recipe.yaml") == after


PLATEAU = {"kind": "linear", "warmup": 0.1, "hold": 0.6, "floor": 0.0}


@pytest.mark.parametrize(
    ("step", "change", "problem"),
    [
        (50, {"steps": 200, "schedule": PLATEAU}, None),  # from one plateau to a longer one
        (50, {"steps": 60, "schedule": PLATEAU | {"hold": 0.8}}, None),
        (0, {"steps": 200, "schedule": {"kind": "constant", "warmup": 0.05}}, None),  # 10 steps of warm-up
        (90, {"steps": 200, "schedule": PLATEAU}, "from 0.31 to 1 of its peak"),  # out of its decay
        (50, {"steps": 60, "schedule": PLATEAU}, "from 1 to 0.529 of its peak"),
        (70, {"steps": 60, "schedule": PLATEAU}, "has done 70 steps"),
    ],
)
def test_steps_may_change_where_the_rate_does_not(
    tmp_path: Path, step: int, change: dict[str, Any], problem: str | None
) -> None:
    before = read_recipe(write(tmp_path / "r.yaml", steps=100, schedule=PLATEAU))
    after = read_recipe(write(tmp_path / "r.yaml", **change))
    if problem is None:
        check_same(before, after, tmp_path, step)
        return
    with pytest.raises(CogViewError, match=problem):
        check_same(before, after, tmp_path, step)


def test_the_steps_done_are_those_of_the_last_checkpoint(tmp_path: Path) -> None:
    before = read_recipe(write(tmp_path / "r.yaml", steps=100, schedule=PLATEAU))
    longer = read_recipe(write(tmp_path / "r.yaml", steps=200, schedule=PLATEAU))
    prepare_directory(before, tmp_path / "run", resume=False)
    (tmp_path / "run" / "checkpoints" / "step-00000090").mkdir(parents=True)
    with pytest.raises(CogViewError, match="step 90"):
        prepare_directory(longer, tmp_path / "run", resume=True)


def test_changeable_fields_exist() -> None:
    assert set(Recipe.model_fields) >= Recipe.CHANGEABLE


def test_directories_are_not_mixed_up(tmp_path: Path) -> None:
    given = read_yaml(TinyRecipe, write(tmp_path / "r.yaml"))
    with pytest.raises(CogViewError, match="no run to resume"):
        prepare_directory(given, tmp_path / "none", resume=True)
    prepare_directory(given, tmp_path / "run", resume=False)
    other = read_yaml(TinyRecipe, write(tmp_path / "r.yaml"), ["steps=7"])
    prepare_directory(other, tmp_path / "run", resume=False)  # the first one never began
    assert read_yaml(TinyRecipe, tmp_path / "run" / "recipe.yaml").steps == 7
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(CogViewError, match="not empty"):
        prepare_directory(given, tmp_path / "run", resume=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(CogViewError, match="cannot be written"):
        prepare_directory(given, tmp_path / "file" / "run", resume=False)


def test_device_that_is_not_there() -> None:
    with pytest.raises(CogViewError, match="not available"):
        pick_device("mps")
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid(path: Path) -> None:
    assert read_recipe(path).name


def test_papers_recipe_is_the_papers() -> None:
    """Section 2.3: 6,144 sequences an update, 144,000 updates; 3,928,849,920 parameters in all."""
    found = read_recipe(RECIPES / "cogview-paper.yaml")
    assert isinstance(found, TransformerRecipe)
    assert found.batch_size * found.accumulation == 6144
    sizes = {"vocab_size": 58240, "max_positions": 1089}
    with torch.device("meta"):
        model = Transformer(TransformerConfig.model_validate({**found.model.model_dump(), **sizes}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_928_849_920


def test_the_papers_and_the_released_recipe_act_as_they_say() -> None:
    """Equation 4 acts on written scores only; the released code has no embedding-gradient shrink."""
    paper, released = (read_recipe(RECIPES / f"cogview-{name}.yaml") for name in ("paper", "released"))
    assert isinstance(paper, TransformerRecipe) and isinstance(released, TransformerRecipe)
    assert paper.model is not None and released.model is not None
    assert (paper.model.attention_relax, paper.model.numerics) == (32.0, "written")
    assert paper.model.embedding_gradient == 0.1
    assert (released.model.attention_relax, released.model.numerics) == (None, "released")
    assert released.model.embedding_gradient == 1.0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": {**SIZES, "attention_relax": 32}}, "attention_relax 32 does nothing with numerics fused"),
        (
            {"model": {**SIZES, "attention_relax": 32, "numerics": "released"}},
            "does nothing with numerics released",
        ),
        ({"model": {**SIZES, "norm": "pre", "branch_gain": 0.5}}, "does nothing with norm pre"),
        ({"format": {"context_weight": 0.5}}, "context_weight belongs to super_resolution"),
        ({"format": {"context_positions": "aligned"}}, "context_positions belongs to super_resolution"),
        ({"format": {"end": "[SEP]"}}, "end is for captions"),
        ({"padding_rows": True}, "padding_rows needs the full softmax"),
    ],
)
def test_what_would_do_nothing_is_refused(fields: dict[str, Any], said: str) -> None:
    plain = {"task": "transformer", "name": "a", "data": "d", "steps": 1, "model": SIZES}
    assert validate(TransformerRecipe, plain, "r")
    with pytest.raises(CogViewError, match=said):
        validate(TransformerRecipe, {**plain, **fields}, "r")
