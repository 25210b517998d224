"""Other wordings of an avatar's caption: articles, fewer parts, another order, other names.

The captions of avatars all have one form ("blue cute monster, horns, smiling, on a red background"). A
model that has read no other knows neither "a monster" nor "一只怪兽，背景是红色的". Each function here says
the same again, chosen by a generator that depends on the picture's key alone; nothing is said that is not so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from sources.drawing import COLOURS, Words, with_article

NOT_NOUNS = re.compile(r"(ing\b|^surprised|^cross-eyed|agape$|\bout$)")
COLOUR_OF = re.compile(f"({'|'.join(COLOURS.values())})的")
BEHIND = {
    "background": (
        ("on a {} background", "{} background", "with a {} background", "against a {} background", "on {}"),
        ("{}背景", "背景是{}的", "{}的背景", "{}底"),
    ),
    "sky": (("{} sky", "under a {} sky", "with a {} sky"), ("{}的天空", "{}天空", "天空是{}的")),
}


def avatar_wording(
    key: str,
    names: dict[str, list[str]],
    opening: Words,
    said: Sequence[Words],
    background: Words | None,
    sky: bool = False,
    loose: Sequence[tuple[float, Words]] = (),
) -> Words:
    """An avatar's caption in other words.

    ``names``: what "en" and "zh" may call it, the first as the opening does. ``said`` are the parts after the
    opening, of which some are left out, and ``loose`` the words of the opening that may be, each with its
    chance; the same ones in both languages.
    """
    chance = random.Random(f"wording:{key}")
    for probability, word in loose:
        if chance.random() < probability:
            opening = Words(
                opening.en.replace(word.en + " ", "", 1), opening.zh.replace(word.zh + "的", "", 1)
            )
    kept = _some(chance, said)
    shown = background if chance.random() < (0.6 if kept else 0.5) else None
    place = BEHIND["sky" if sky else "background"]
    behind = Words("", "")
    if shown:
        behind = Words(chance.choice(place[0]).format(shown.en), chance.choice(place[1]).format(shown.zh))
    return Words(
        _avatar_en(chance, names["en"], opening.en, [part.en for part in kept], behind.en),
        _avatar_zh(chance, names["zh"], opening.zh, [part.zh for part in kept], behind.zh),
    )


def _some(chance: random.Random, said: Sequence[Words]) -> list[Words]:
    """None of the parts, some in any order, or all: a third each."""
    how = chance.random()
    if how < 1 / 3:
        return []
    if how < 2 / 3:
        return chance.sample(said, chance.randint(1, len(said))) if said else []
    return list(said)


def _renamed(chance: random.Random, names: Sequence[str], text: str) -> str:
    return text.replace(names[0], chance.choice(names), 1)


def _avatar_en(
    chance: random.Random, names: Sequence[str], opening: str, parts: Sequence[str], behind: str
) -> str:
    text = _renamed(chance, names, opening)
    if chance.random() < 0.6:
        text = with_article(text)
    nouns = [part for part in parts if not NOT_NOUNS.search(part)]
    if nouns and " with " not in text and chance.random() < 0.5:
        text += " with " + _listed(nouns)
        parts = [part for part in parts if part not in nouns]
    text = ", ".join([text, *parts])
    if behind:
        joint = " " if behind.startswith(("on ", "with ", "against ", "under ")) else ", "
        text += chance.choice((", ", joint)) + re.sub(r"\ba (?=[aeiou])", "an ", behind)
    return text


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _avatar_zh(
    chance: random.Random, names: Sequence[str], opening: str, parts: Sequence[str], behind: str
) -> str:
    text = _renamed(chance, names, opening)
    if chance.random() < 0.5:
        text = COLOUR_OF.sub(r"\1", text)
    if text.startswith("一个") and chance.random() < 0.5:
        text = text.removeprefix("一个")
    text = "，".join([text, *parts])
    if behind:
        text = f"{behind}，{text}" if chance.random() < 0.3 else f"{text}，{behind}"
    return text
