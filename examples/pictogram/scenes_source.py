"""Scenes as a source of records: each is composed from its number when it is read, nothing is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from corpus import all_sprites
from plan import measured, read_settings
from rows_source import uncompressed
from sources.scene_cast import cast
from sources.scene_drawing import House
from sources.scene_words import captions
from sources.scenes import COUNT, Composer, Scene, SceneThing
from things import load_things

from cogview.data.samples import Caption
from cogview.data.sources import Record

CHECKED = 200  # scenes whose specification and captions decide the fingerprint


def load_cast(packages: Path, work: Path) -> tuple[list[SceneThing], House]:
    """The things for scenes and their drawings; what ``corpus.py plan`` has not measured is measured now."""
    sprites = [sprite for sprite in all_sprites(packages) if sprite.house]
    facts = measured(sprites, work / "facts.jsonl", read_settings())
    return cast(sprites, facts, load_things()), House({sprite.thing: sprite for sprite in sprites})


def open_scenes(packages: Path, work: Path, count: int = COUNT, aligned: bool = False) -> ScenesSource:
    """The first ``count`` scenes, as a source; ``aligned``: on the codes' grid."""
    return ScenesSource(*load_cast(packages, work), count, aligned)


class ScenesSource:
    """The first ``count`` scenes of a list of things."""

    def __init__(
        self, things: Sequence[SceneThing], house: House, count: int = COUNT, aligned: bool = False
    ) -> None:
        self.composer, self.house, self.count = Composer(things, aligned), house, count

    def __len__(self) -> int:
        return self.count

    def fingerprint(self) -> str:
        """Changes with the number of scenes, the things, and how scenes are composed and captioned."""
        first = [self.composer.scene(number) for number in range(min(self.count, CHECKED))]
        lines = [json.dumps(scene.spec()) + repr(self.captions(scene)) for scene in first]
        return hashlib.sha256("\n".join([str(self.count), *lines]).encode()).hexdigest()

    def captions(self, scene: Scene) -> tuple[Caption, ...]:
        """A scene's captions, each text once a language: the first are plain, the others reword them."""
        made = [
            Caption(text, language, "reworded" if place else "plain")
            for place, words in enumerate(captions(scene, self.composer.by_key))
            for language, text in (("en", words.en), ("zh", words.zh))
        ]
        once = {(caption.text, caption.language): caption for caption in reversed(made)}
        return tuple(reversed(once.values()))

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on; a scene that cannot be drawn is a record with a problem."""
        for number in range(start, self.count):
            scene = self.composer.scene(number)
            try:
                image, problem = uncompressed(self.house.draw(scene)), ""
            except ValueError as error:
                image, problem = b"", str(error)
            said, place = self.captions(scene), f"scene {number}"
            yield Record(f"scene/{number}", image, said, "scene", scene.split, place, problem)
