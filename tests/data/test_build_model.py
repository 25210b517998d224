"""The commands that build the default model: each is one that its program understands."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import typer

from cogview.checkpoints.prompt_help import PromptHelp
from cogview.cli.app import app
from cogview.config import read_yaml
from cogview.training.assembly_plan import FamilySettings
from cogview.training.registry import read_recipe

ROOT = Path(__file__).parents[2] / "examples" / "pictogram"
if not ROOT.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)
pytest.importorskip("resvg_py")
pytest.importorskip("dicebear")
sys.path.insert(0, str(ROOT))

import build_model  # noqa: E402
from sources.styles import STYLES  # noqa: E402

ALL = {"full": build_model.FULL, "gpu": build_model.GPU, "toy": build_model.TOY}


def steps(size: str) -> list[build_model.Step]:
    return list(build_model.Build(Path("work"), Path("packages"), ALL[size]).steps())


@pytest.mark.parametrize("size", ALL)
def test_every_recipe_takes_its_settings(size: str) -> None:
    """And none is left out, but for the older judges' and for what a finished base may be finetuned with."""
    trained = [step for step in steps(size) if step.command[:2] == ("cogview", "train")]
    for step in trained:
        sets = [
            text for before, text in zip(step.command, step.command[1:], strict=False) if before == "--set"
        ]
        assert sets and read_recipe(Path(step.command[2]), sets).steps
    recipes = {path.stem for path in build_model.RECIPES.glob("*.yaml")}
    assert {step.name for step in trained} == recipes - {
        "alignment_scorer",
        "attribute_classifier",
        "guidance_free",
    }


@pytest.mark.parametrize("size", ALL)
def test_every_step_has_a_name_and_a_result_of_its_own(size: str) -> None:
    """`--until` stops at a step by its name, and a step is skipped by its result."""
    found = steps(size)
    assert len({step.name for step in found}) == len({step.result for step in found}) == len(found)
    assert set(ALL[size].rows) <= {step.name for step in found}
    assert set(ALL[size].recipes) <= {step.name for step in found}


@pytest.mark.parametrize("size", ALL)
def test_every_script_takes_its_arguments(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    for step in steps(size):
        if step.command[0] == sys.executable:
            script = Path(step.command[1])
            monkeypatch.setattr(sys, "argv", list(step.command[1:]))
            assert importlib.import_module(script.stem).arguments()


def test_every_other_command_takes_its_arguments() -> None:
    """Parsed as the program parses them; nothing is run."""
    group = typer.main.get_command(app)
    for step in steps("full"):
        if step.command[0] != "cogview":
            continue
        command, words = group, list(step.command[1:])
        context = command.make_context("cogview", [*words[:1], "--help"], resilient_parsing=True)
        while hasattr(command, "get_command") and words:
            found = command.get_command(context, words[0])
            assert found is not None, step
            command, words = found, words[1:]
        command.make_parser(context).parse_args(list(words))


def test_what_is_there_is_not_made_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each step once, in order; one that leaves no result stops the build."""
    made = [
        build_model.Step(
            name, tmp_path / name, (sys.executable, "-c", f"print('{name}'); open(r'{tmp_path / name}', 'w')")
        )
        for name in ("a", "b")
    ]
    (tmp_path / "a").touch()
    build_model.run(made, print)
    lines = capfd.readouterr().out.splitlines()
    assert "b" in lines and "a" not in lines
    broken = build_model.Step("c", tmp_path / "c", (sys.executable, "-c", "pass"))
    with pytest.raises(FileNotFoundError, match="c ended without"):
        build_model.run([broken], print)


def test_the_family_offers_styles_that_were_learnt_and_a_table_of_words() -> None:
    """Their words are those of the captions; styles that are withheld from training are not offered."""
    settings = read_yaml(FamilySettings, ROOT / "family.yaml")
    learnt = {(own.words.en, own.words.zh) for own in STYLES.values() if not own.withheld}
    assert {(words["en"], words["zh"]) for words in settings.styles.values()} <= learnt
    assert settings.words and PromptHelp(ROOT / settings.words).checked().unknown("an aardvark")
