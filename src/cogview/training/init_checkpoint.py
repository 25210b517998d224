"""The model that a run starts from (recipe: ``init``): a family, a run, or a model directory."""

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
    """A transformer's directory, the fingerprints of its tokenizers ("" if unknown) and the sequence format
    it was trained on (None if unknown)."""

    directory: Path
    image_tokenizer: str = ""
    text_tokenizer: str = ""
    sequences: Sequences | None = None

    def config(self) -> TransformerConfig:
        """The transformer's configuration; raises CogViewError if the directory has no transformer."""
        return Transformer.inspect(self.directory)

    def require(self, image_tokenizer: str, text_tokenizer: str, data: Path) -> None:
        """Raise CogViewError unless the data were tokenised with this model's tokenizers."""
        for what, known, built in (
            ("image", self.image_tokenizer, image_tokenizer),
            ("text", self.text_tokenizer, text_tokenizer),
        ):
            if known and known != built:
                raise CogViewError(
                    f"init: {self.directory} was trained with another {what} tokenizer ({known[:12]}, {data} "
                    f"has {built[:12]}); build the tokens with that model's tokenizers"
                )


def find_init_checkpoint(init: Path) -> InitCheckpoint:
    """Resolve ``init``: a family (its base role), a role of a family (``pictogram/caption``), a run, or a
    model directory. Raises CogViewError if there is no model."""
    if locate(init) is not None:
        return _of_family(init, "base")
    if locate(init.parent) is not None and (role := _role_at(init)) is not None:
        return _of_family(init.parent, role)
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


def _role_at(path: Path) -> str | None:
    """The role of a family at ``path``, or None if it is another directory."""
    roles = ModelBundle.find(path.parent).config.roles
    return next((name for name, role in roles.items() if path.name in (name, role.directory)), None)


def _of_family(path: Path, role: str) -> InitCheckpoint:
    family = ModelBundle.find(path)
    prints, entry = family.config.fingerprints, family.role(role)
    directory = family.directory / entry.directory
    return InitCheckpoint(directory, prints.image_tokenizer, prints.text_tokenizer, entry.sequences)


def _sequences(data: object) -> Sequences | None:
    """The sequence format in ``training.json``; None if it is missing or of another version."""
    try:
        sequences: Sequences = TypeAdapter(Sequences).validate_python(data)
    except ValidationError:
        return None
    return sequences
