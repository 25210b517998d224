"""Contents of a study's folder: ``study.json``, ``pictures/`` with anonymous names, answers and a secret."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from cogview.config import Config, read_json
from cogview.errors import CogViewError

FILE, PICTURES, ANSWERS, SECRET = "study.json", "pictures", "answers.sqlite", "secret"
SCALES = ("clarity", "texture", "relevance", "overall")
Scale = Literal["clarity", "texture", "relevance", "overall"]
HIGHEST: dict[str, int] = {"clarity": 5, "texture": 5, "relevance": 5, "overall": 10}
Language = Literal["en", "zh"]


class Group(Config):
    """One caption and its images, one of every model.

    captions: the caption by language, "" for an unknown language; pictures: the model's name to the file in
    ``pictures/``, whose name does not reveal the model.
    """

    key: str
    captions: dict[Literal["en", "zh", ""], str] = Field(min_length=1)
    pictures: dict[str, str]


class Study(Config):
    """A study as it was created; it does not change while people rate.

    Args:
        id: random; identifies the study in its database.
        models: the names, in the order of reports.
        ab: two models that share one slot: a rater sees one of them for half of the captions and the other
            for the rest (appendix E); None for no such test.
        captions_per_rater: number of groups per rater; all of them in the paper.
        consistency: a rater is kept if the chosen best image had the highest overall score in more than this
            share of groups.
    """

    format: int = Field(1, ge=1, le=1)
    id: str = Field(pattern="^[0-9a-f]{32}$")
    title: str = Field(max_length=200)
    seed: int = 0
    models: tuple[str, ...] = Field(min_length=2)
    ab: tuple[str, str] | None = None
    captions_per_rater: int = Field(ge=1)
    consistency: float = Field(0.8, ge=0, lt=1)
    size: tuple[int, int]
    groups: tuple[Group, ...] = Field(min_length=1)

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        repeated = [name for name, count in Counter(models).items() if count > 1]
        if repeated:
            raise ValueError(f"the model {repeated[0]!r} is given twice")
        return models

    @model_validator(mode="after")
    def _complete(self) -> Self:
        unknown = set(self.ab or ()) - set(self.models)
        if unknown:
            raise ValueError(f"ab: no model is named {min(unknown)!r}")
        if self.ab and (self.ab[0] == self.ab[1] or len(self.models) < 3):
            raise ValueError("ab: needs two different models and a third to compare them with")
        if self.captions_per_rater > len(self.groups):
            raise ValueError(f"captions_per_rater: there are only {len(self.groups)} captions")
        for group in self.groups:
            if set(group.pictures) != set(self.models):
                raise ValueError(f"groups: {group.key!r} has images of other models than {self.models}")
        names = [name for group in self.groups for name in group.pictures.values()]
        if len(set(names)) < len(names) or any(Path(name).name != name for name in names):
            raise ValueError("groups: an image's file name is used twice or is not a plain name")
        return self

    @property
    def places(self) -> int:
        """The number of images that a rater sees per caption."""
        return len(self.models) - bool(self.ab)


def read_study(directory: Path) -> Study:
    """Read and check a study's folder; CogViewError if it is not one or images are missing."""
    if not (directory / FILE).is_file():
        raise CogViewError(f"{directory}: no study there; create one with `cogview study create`")
    study = read_json(Study, directory / FILE)
    for group in study.groups:
        for name in group.pictures.values():
            if not (directory / PICTURES / name).is_file():
                raise CogViewError(f"{directory / PICTURES / name}: missing; restore the study's folder")
    return study
