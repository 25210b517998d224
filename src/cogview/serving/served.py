"""A model as the server shows it: its name, what it can do, the sizes it draws."""

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

MOST_WORDS = 8  # unknown ones of a prompt that are reported


class Served:
    """One model in memory."""

    def __init__(self, cogview: Pipeline, name: str | None = None) -> None:
        self.cogview, self.name = cogview, name or cogview.bundle.config.name
        self.since = int(time.time())

    @cached_property
    def abilities(self) -> tuple[str, ...]:
        """What can be asked of it: generate, edit, upscale, caption, score."""
        return self.cogview.bundle.config.abilities

    def require(self, ability: str) -> None:
        """ApiError where it cannot."""
        if ability not in self.abilities:
            there = ", ".join(self.abilities) or "nothing"
            message = f"the model {self.name} cannot {ability}: it can {there}"
            raise ApiError(400, message, code="unsupported", param="model")

    def warm(self) -> None:
        """Read what is read at first use and always needed."""
        if "generate" in self.abilities:
            _ = self.cogview.text_to_image.engine, self.sizes
            self.unknown_words("")
        _ = self.cogview.model_hash

    @property
    def enlarges(self) -> bool:
        """Whether what it draws is enlarged by its own further models (CogView2)."""
        return self.cogview.bundle.config.two_stage

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Sizes as ``WIDTHxHEIGHT``, the default first; each with how often it is the smallest."""
        if "generate" not in self.abilities:
            return {}
        form, images = self.cogview.text_to_image.format, self.cogview.image_tokenizer
        cell = images.image_size // images.grid()[0]
        height, width = (side * cell for side in form.grid)
        times = [1]
        if self.enlarges:
            times = [self.cogview.super_resolution.format.grid[0] // form.grid[0], 1]
        elif "upscale" in self.abilities:
            times = [1, 2, 4]
        return {f"{width * n}x{height * n}": n for n in times}

    def times(self, size: str) -> int:
        """How often a size is the smallest; ApiError for one that there is not."""
        if size == "auto":
            return next(iter(self.sizes.values()))
        if size not in self.sizes:
            there = ", ".join(self.sizes)
            raise ApiError(
                400, f"no size {size!r}; there are {there} and auto", code="invalid_value", param="size"
            )
        return self.sizes[size]

    def unknown_words(self, prompt: str) -> dict[str, Any]:
        """What of a prompt the model never learnt (``unknown``, each with what near it it knows, ``near``),
        and words in a language or a spelling that it hardly knows (``unfamiliar``)."""
        table, tokenizer = self.cogview.bundle.prompt_help, self.cogview.text_tokenizer
        unknown = table.unknown(prompt) if table else []
        named = {word.word for word in unknown}
        unfamiliar = [word for word in tokenizer.unfamiliar(prompt) if word.lower() not in named]
        return {
            "unknown": [{"word": word.word, "near": list(word.near)} for word in unknown[:MOST_WORDS]],
            "unfamiliar": list(dict.fromkeys(unfamiliar))[:MOST_WORDS],
        }

    def describe(self) -> dict[str, Any]:
        """Its entry in ``GET /v1/models``; what OpenAI's has not is under ``cogview``."""
        config = self.cogview.bundle.config
        own: dict[str, Any] = {
            "hash": self.cogview.model_hash,
            "abilities": self.abilities,
            "sizes": list(self.sizes),
            "styles": config.styles,
            "defaults": config.sampling("generate").model_dump(),
            "clusters": config.clusters is not None,
        }
        if self.sizes:
            own["text_limit"] = self.cogview.text_to_image.format.text_limit
        return {
            "id": self.name,
            "object": "model",
            "created": self.since,
            "owned_by": "cogview",
            "cogview": own,
        }


class Models:
    """All that are served, by name; the first is the default.

    aliases: further names, each of a model that is served. OpenAI's names stand for no name.
    """

    def __init__(self, served: Sequence[Served], aliases: Mapping[str, str] | None = None) -> None:
        self.by_name = {one.name: one for one in served}
        if len(self.by_name) != len(served):
            raise CogViewError("two of the models have the same name; serve them apart")
        self.default = served[0]
        self.options: dict[str, Any] = {}  # what they were read with
        self.aliases = check_aliases(aliases or {}, self.by_name)

    @classmethod
    def load(
        cls, names: Sequence[str | Path], aliases: Mapping[str, str] | None = None, **options: Any
    ) -> Models:
        """Read models into memory, ready to draw; CogViewError where one cannot be."""
        found = cls([Served(Pipeline.from_pretrained(name, **options)) for name in names], aliases)
        found.options = options
        for one in found.by_name.values():
            one.warm()
        return found

    def add(self, directory: Path) -> None:
        """Read one more model, made ready as the others; CogViewError where it cannot be, or has a name
        that is taken."""
        served = Served(Pipeline.from_pretrained(directory, **{**self.options, "lora": None}))
        served.warm()
        if served.name in self.by_name or served.name in self.aliases:
            raise CogViewError(f"a model {served.name} is served already")
        self.by_name = {**self.by_name, served.name: served}

    def remove(self, name: str) -> None:
        """Serve a model no longer; the default stays."""
        if name != self.default.name:
            self.by_name = {key: one for key, one in self.by_name.items() if key != name}

    def describe(self) -> list[dict[str, Any]]:
        """The entries of ``GET /v1/models``, each with its further names."""
        found = []
        for one in self.by_name.values():
            entry = one.describe()
            entry["cogview"]["aliases"] = [name for name, model in self.aliases.items() if model == one.name]
            found.append(entry)
        return found

    def _real(self, name: str | None) -> str | None:
        """The name of a model, where one is asked for; None where any will do."""
        if name is None or name in self.by_name:
            return name
        return self.aliases.get(name, None if is_openai_name(name) else name)

    def find(self, name: str | None) -> Served:
        """The model of a request; ApiError 404 where it is not served."""
        name = self._real(name)
        if name is None:
            return self.default
        if name not in self.by_name:
            close = difflib.get_close_matches(name, self.by_name, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.by_name)}"
            raise ApiError(404, f"no model {name!r}; {hint}", code="model_not_found", param="model")
        return self.by_name[name]

    def able(self, name: str | None, ability: str) -> Served:
        """The same, and it can; without a name of ours the first that can."""
        name = self._real(name)
        if name is None:
            name = next((one.name for one in self.by_name.values() if ability in one.abilities), None)
        found = self.find(name)
        found.require(ability)
        return found
