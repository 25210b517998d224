"""The registry of training tasks, and reading recipes with the recipe class of their task."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from cogview.config import load_yaml, validate
from cogview.errors import CogViewError
from cogview.training.recipe import Recipe
from cogview.training.task import Task

TASKS = {
    "image_tokenizer": "cogview.training.tasks.image_tokenizer:ImageTokenizerTask",
    "hierarchical_tokenizer": "cogview.training.tasks.hierarchical_tokenizer:HierarchicalTokenizerTask",
    "transformer": "cogview.training.tasks.transformer:TransformerTask",
    "guidance_free": "cogview.training.tasks.guidance_free:GuidanceFreeTask",
    "coglm": "cogview.training.tasks.coglm:CogLMTask",
    "direct_super_resolution": "cogview.training.tasks.upscaling:DirectTask",
    "attribute_classifier": "cogview.evaluation.judges.classifier_training:AttributeClassifierTask",
    "alignment_scorer": "cogview.evaluation.judges.scorer_training:AlignmentScorerTask",
    "thing_reader": "cogview.evaluation.judges.thing_training:ThingReaderTask",
    "scene_reader": "cogview.evaluation.judges.scene_training:SceneReaderTask",
    "iterative_super_resolution": "cogview.training.tasks.upscaling:IterativeTask",
}


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe with ``overrides`` ("a.b=c", values in YAML); raises CogViewError."""
    data = load_yaml(path, overrides)
    name = data.get("task")
    if not isinstance(name, str) or name not in TASKS:
        raise CogViewError(f"{path}: task: {name!r:.100} is not one of {', '.join(TASKS)}")
    return validate(task_class(name).recipe_class, data, str(path))


def task_class(name: str) -> type[Task]:
    """The class of a task in ``TASKS``, imported on demand."""
    module, _, attribute = TASKS[name].partition(":")
    return cast(type[Task], getattr(import_module(module), attribute))
