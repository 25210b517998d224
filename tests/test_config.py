"""Configuration files: what is accepted, what is refused, and in which words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.config import (
    MAX_BYTES,
    Config,
    apply_override,
    dump_yaml,
    load_json,
    load_yaml,
    parse_yaml,
    read_json,
    read_yaml,
)
from cogview.errors import CogViewError


class Optimizer(Config):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Recipe(Config):
    name: str
    steps: int = 10
    optimizer: Optimizer = Optimizer()
    sources: tuple[str, ...] = ()


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_with_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: 小猫\nsources: [a, b]\noptimizer: {lr: 3e-4}\n")
    recipe = read_yaml(Recipe, path, ["optimizer.betas=[0.8, 0.9]", "sources.1=c", "steps=7", "name=a=b"])
    optimizer = Optimizer(lr=0.0003, betas=(0.8, 0.9))
    assert recipe == Recipe(name="a=b", steps=7, optimizer=optimizer, sources=("a", "c"))


def test_an_override_makes_what_is_missing(tmp_path: Path) -> None:
    assert load_yaml(write(tmp_path, ""), ["a.b.c=1", "a.d=x"]) == {"a": {"b": {"c": 1}, "d": "x"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("12", 12),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("2021-05-26", "2021-05-26"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_values_are_read_as_yaml_1_2_does(text: str, value: object) -> None:
    read = parse_yaml(text, "here")
    assert read == value and type(read) is type(value)


@given(st.floats(allow_nan=False))
def test_a_dumped_recipe_reads_back_equal(lr: float) -> None:
    recipe = Recipe(name="no", optimizer=Optimizer(lr=lr), sources=("3e-4", "no", "红", "1", "2021-05-26"))
    assert Recipe.model_validate(parse_yaml(dump_yaml(recipe), "here")) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("name: a\nstpes: 3", [], "stpes: no such key; did you mean 'steps'?"),
        ("name: a\noptimizer: {learn: 3}", [], "optimizer.learn: no such key"),
        ("steps: 3", [], "name: missing"),
        ("name: a\nsteps: many", [], "steps: must be a whole number (got 'many')"),
        ("name: a\nsteps: many\nx: 1", [], "(and 1 more)"),
        ("name: a\nname: b", [], "line 2: the key 'name' appears twice"),
        ("name: [a", [], "recipe.yaml: line 1"),
        ("- a\n- b", [], "found list"),
        ("name: !!python/object:os.system x", [], "tags (!) are not read"),
        ("name: a", ["steps"], "--set steps: write it as key.path=value"),
        ("name: a", ["=3"], "write it as key.path=value"),
        ("name: a", ["name.first=3"], "--set name.first: 'first' cannot be looked up"),
        ("name: a\nsources: [x]", ["sources.3=y"], "a list of 1"),
        ("name: a", ["steps=[1"], "--set steps: line 1"),
        ("a: \x00", [], "not valid YAML"),
        ("[" * 600, [], "recipe.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    tmp_path: Path, text: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(CogViewError) as caught:
        read_yaml(Recipe, write(tmp_path, text), overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.json").write_text('{"name": ')
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_BYTES + 1))
    for name, said in (
        ("absent.json", "No such file"),
        ("binary.json", "UTF-8"),
        ("broken.json", "JSON"),
        ("huge.json", "too large"),
        (".", "directory"),
    ):
        with pytest.raises(CogViewError, match=said):
            load_json(tmp_path / name)


def test_json_and_freezing(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "a", "optimizer": {"lr": 2}}')
    recipe = read_json(Recipe, tmp_path / "recipe.json")
    assert recipe.optimizer.lr == 2.0
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "b"  # type: ignore[misc]


def test_an_override_changes_nothing_else() -> None:
    data = {"a": {"b": 1, "c": [1, {"d": 2}]}}
    apply_override(data, "a.c.1.d=3")
    assert data == {"a": {"b": 1, "c": [1, {"d": 3}]}}
