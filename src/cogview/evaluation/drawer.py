"""A model family as a drawer of pictures for the attribute experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from cogview.config import cache_dir, load_json
from cogview.errors import CogViewError
from cogview.provenance import model_hash


def family_directory(model: str) -> Path:
    """The directory of a model family given by its path or by its name.

    Raises:
        CogViewError: there is none.
    """
    shipped = Path(__file__).parents[1] / "models"
    places = [Path(model), cache_dir() / "models" / model, shipped / model]
    for place in places:
        if (place / "family.json").is_file():
            return place
    raise CogViewError(f"{model}: no model of that name or directory; see `cogview models`")


class ModelDrawer:
    """Draws with the model family ``model`` (name or directory); see ``attributes.Drawer``."""

    def __init__(self, model: str) -> None:
        self.directory = family_directory(model)
        self.name = self.directory.name
        self._family: Any = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the family's weights and configurations."""
        return model_hash(self.directory)

    @property
    def image_tokenizer(self) -> Path:
        """The directory of the family's image tokenizer."""
        family = load_json(self.directory / "family.json")
        return self.directory / str(family.get("image_tokenizer", "image_tokenizer"))

    def draw(
        self, prompts: Sequence[str], seed: int, sampling: Mapping[str, int | float | str]
    ) -> list[Image.Image]:
        """One picture for each prompt; the model is loaded for the first."""
        if self._family is None:
            from cogview.pipeline import CogView

            self._family = CogView.from_pretrained(self.directory)
        return [result.image for result in self._family.generate(list(prompts), n=1, seed=seed, **sampling)]
