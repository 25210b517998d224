"""The served models: names, abilities, image sizes."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cogview.errors import CogViewError
from cogview.pipelines.model import Pipeline
from cogview.serving.api_errors import ApiError
from cogview.serving.openai.names import check_aliases, is_openai_name

MAX_WORDS = 8  # unknown words of a prompt that are reported


class ServedModel:
    """A model in memory."""

    def __init__(self, cogview: Pipeline, name: str | None = None) -> None:
        self.cogview, self.name = cogview, name or cogview.bundle.config.name
        self.since = int(time.time())

    @cached_property
    def abilities(self) -> tuple[str, ...]:
        """Tasks it can do, of generate, edit, upscale, caption, score."""
        return self.cogview.bundle.config.abilities

    def require(self, ability: str) -> None:
        """Raises ApiError if the model lacks this ability."""
        if ability not in self.abilities:
            available = ", ".join(self.abilities) or "nothing"
            message = f"the model {self.name} cannot {ability}: it can {available}"
            raise ApiError(400, message, code="unsupported", param="model")

    def warm_up(self) -> None:
        """Load everything that is otherwise loaded at first use and always needed."""
        if "generate" in self.abilities:
            _ = self.cogview.text_to_image.engine, self.sizes
            self.unknown_words("")
        _ = self.cogview.model_hash

    @property
    def two_stage(self) -> bool:
        """Whether its images are upscaled by super-resolution models of the same family (CogView2)."""
        return self.cogview.bundle.config.two_stage

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Sizes as ``WIDTHxHEIGHT``, the default first, each with its multiple of the smallest size."""
        if "generate" not in self.abilities:
            return {}
        from cogview.tokenizers.loading import side_of

        grid = self.cogview.text_to_image.format.grid
        height, width = (side_of(self.cogview.image_tokenizer, codes) for codes in grid)
        times = [1]
        if self.two_stage:
            times = [self.cogview.super_resolution.format.grid[0] // grid[0], 1]
        elif "upscale" in self.abilities:
            times = [1, 2, 4]
        return {f"{width * n}x{height * n}": n for n in times}

    def times(self, size: str) -> int:
        """The multiple of the smallest size; raises ApiError for a size that the model does not have."""
        if size == "auto":
            return next(iter(self.sizes.values()))
        if size not in self.sizes:
            available = ", ".join(self.sizes)
            raise ApiError(
                400, f"no size {size!r}; there are {available} and auto", code="invalid_value", param="size"
            )
        return self.sizes[size]

    def unknown_words(self, prompt: str) -> dict[str, Any]:
        """Words of a prompt that the model was not trained on.

        ``unknown``: words of no training caption, each with similar known words (``near``); ``unfamiliar``:
        words in a language or spelling that its text tokenizer hardly covers.
        """
        table, tokenizer = self.cogview.bundle.prompt_help, self.cogview.text_tokenizer
        unknown = table.unknown(prompt) if table else []
        listed = {word.word for word in unknown}
        unfamiliar = [word for word in tokenizer.unfamiliar(prompt) if word.lower() not in listed]
        return {
            "unknown": [{"word": word.word, "near": list(word.near)} for word in unknown[:MAX_WORDS]],
            "unfamiliar": list(dict.fromkeys(unfamiliar))[:MAX_WORDS],
        }

    def describe(self) -> dict[str, Any]:
        """Its entry in ``GET /v1/models``; fields that OpenAI's API lacks are under ``cogview``."""
        config = self.cogview.bundle.config
        extension: dict[str, Any] = {
            "hash": self.cogview.model_hash,
            "abilities": self.abilities,
            "two_stage": self.two_stage,
            "sizes": list(self.sizes),
            "styles": config.styles,
            "defaults": config.sampling("generate").model_dump(),
            "clusters": config.clusters is not None,
        }
        if self.sizes:
            extension["text_limit"] = self.cogview.text_to_image.format.text_limit
        return {
            "id": self.name,
            "object": "model",
            "created": self.since,
            "owned_by": "cogview",
            "cogview": extension,
        }


class Models:
    """The served models by name; the first is the default.

    aliases: additional names of served models. OpenAI's model names select no particular model.
    """

    def __init__(self, served: Sequence[ServedModel], aliases: Mapping[str, str] | None = None) -> None:
        self.by_name = {one.name: one for one in served}
        if len(self.by_name) != len(served):
            raise CogViewError("two of the models have the same name; serve them separately")
        self.default = served[0]
        self.options: dict[str, Any] = {}  # of Pipeline.from_pretrained
        self.aliases = check_aliases(aliases or {}, self.by_name)

    @classmethod
    def load(
        cls, names: Sequence[str | Path], aliases: Mapping[str, str] | None = None, **options: Any
    ) -> Models:
        """Load models into memory and warm them up; raises CogViewError if one cannot be read."""
        models = cls([ServedModel(Pipeline.from_pretrained(name, **options)) for name in names], aliases)
        models.options = options
        for served in models.by_name.values():
            served.warm_up()
        return models

    def add(self, directory: Path) -> None:
        """Load one more model; raises CogViewError if it cannot be read or its name is taken."""
        served = ServedModel(Pipeline.from_pretrained(directory, **{**self.options, "lora": None}))
        served.warm_up()
        if served.name in self.by_name or served.name in self.aliases:
            raise CogViewError(f"a model {served.name} is served already")
        self.by_name = {**self.by_name, served.name: served}

    def remove(self, name: str) -> None:
        """Stop serving a model; the default cannot be removed."""
        if name != self.default.name:
            self.by_name = {key: one for key, one in self.by_name.items() if key != name}

    def describe(self) -> list[dict[str, Any]]:
        """The entries of ``GET /v1/models``, with aliases."""
        entries = []
        for served in self.by_name.values():
            entry = served.describe()
            aliases = [name for name, model in self.aliases.items() if model == served.name]
            entry["cogview"]["aliases"] = aliases
            entries.append(entry)
        return entries

    def _resolve(self, name: str | None) -> str | None:
        """The model that a name or alias stands for; None if any model will do."""
        if name is None or name in self.by_name:
            return name
        return self.aliases.get(name, None if is_openai_name(name) else name)

    def find(self, name: str | None) -> ServedModel:
        """The model of a request; raises ApiError 404 if it is not served."""
        name = self._resolve(name)
        if name is None:
            return self.default
        if name not in self.by_name:
            close = difflib.get_close_matches(name, self.by_name, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.by_name)}"
            raise ApiError(404, f"no model {name!r}; {hint}", code="model_not_found", param="model")
        return self.by_name[name]

    def with_ability(self, name: str | None, ability: str) -> ServedModel:
        """As :meth:`find`, but without a served name the first model with this ability.

        Raises:
            ApiError: the model is not served (404) or lacks the ability (400).
        """
        name = self._resolve(name)
        if name is None:
            name = next((one.name for one in self.by_name.values() if ability in one.abilities), None)
        served = self.find(name)
        served.require(ability)
        return served
