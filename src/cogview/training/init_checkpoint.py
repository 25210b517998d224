"""Where a run starts from (recipe: ``init``): a family, a run, or a model's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cogview.checkpoints.bundle import ModelBundle, Sequences, locate
from cogview.config import load_json
from cogview.errors import CogViewError
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

FACTS = "training.json"


@dataclass(frozen=True)
class InitCheckpoint:
    """A transformer's directory, the fingerprints of the tokenizers it knows ("" where unknown) and the
    sequences it was trained on, where they are known."""

    directory: Path
    image_tokenizer: str = ""
    text_tokenizer: str = ""
    sequences: Sequences | None = None

    def config(self) -> TransformerConfig:
        """The transformer's configuration; CogViewError where the directory holds something else."""
        return Transformer.inspect(self.directory)

    def require(self, image_tokenizer: str, text_tokenizer: str, data: Path) -> None:
        """Raise CogViewError unless the data were tokenised as this model knows it."""
        for what, known, built in (
            ("image", self.image_tokenizer, image_tokenizer),
            ("text", self.text_tokenizer, text_tokenizer),
        ):
            if known and known != built:
                raise CogViewError(
                    f"init: {self.directory} was trained with another {what} tokenizer ({known[:12]}, {data} "
                    f"has {built[:12]}); build the tokens with the tokenizers of that model"
                )


def find_init_checkpoint(init: Path) -> InitCheckpoint:
    """What ``init`` names: a family (its base), one of a family's roles (``pictogram/caption``), a run, or a
    model's directory. CogViewError where there is no model."""
    if locate(init) is not None:
        return _of_family(init, "base")
    if locate(init.parent) is not None and (found := _role_at(init)) is not None:
        return _of_family(init.parent, found)
    directory = init if (init / "config.json").is_file() else init / "model"
    if not (directory / "config.json").is_file():
        raise CogViewError(f"init: {init} is no model; give a family's name, a run or a model's directory")
    if not (directory / FACTS).is_file():
        return InitCheckpoint(directory)
    facts = load_json(directory / FACTS)
    names = ("image_tokenizer", "text_tokenizer")
    if not isinstance(facts, dict):
        return InitCheckpoint(directory)
    known = {name: str(facts.get(name, "")) for name in names}
    return InitCheckpoint(directory, **known, sequences=_sequences(facts.get("sequences")))


def _role_at(place: Path) -> str | None:
    """The role of a family that stands at ``place``; None where it is another directory."""
    roles = ModelBundle.find(place.parent).config.roles
    return next((name for name, role in roles.items() if place.name in (name, role.directory)), None)


def _of_family(place: Path, role: str) -> InitCheckpoint:
    family = ModelBundle.find(place)
    prints, entry = family.config.fingerprints, family.role(role)
    directory = family.directory / entry.directory
    return InitCheckpoint(directory, prints.image_tokenizer, prints.text_tokenizer, entry.sequences)


def _sequences(given: object) -> Sequences | None:
    """The sequences in a run's facts; None where they are missing or another version's."""
    try:
        found: Sequences = TypeAdapter(Sequences).validate_python(given)
    except ValidationError:
        return None
    return found
