"""Other wordings of a caption, as people write prompts: articles, fewer parts, another order, other names.

The captions of the sources all have one form ("blue cute monster, horns, smiling, on a red background"). A
model that has read no other knows neither "a monster" nor "一只怪兽，背景是红色的". Each function here says
the same again, chosen by a generator that depends on the picture's key alone; nothing is said that is not so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from sources.drawing import COLOURS, Words, with_article, without_article

NOT_NOUNS = re.compile(r"(ing\b|^surprised|^cross-eyed|agape$|\bout$)")
COLOUR_OF = re.compile(f"({'|'.join(COLOURS.values())})的")
BEHIND = {
    "background": (
        ("on a {} background", "{} background", "with a {} background", "against a {} background", "on {}"),
        ("{}背景", "背景是{}的", "{}的背景", "{}底"),
    ),
    "sky": (("{} sky", "under a {} sky", "with a {} sky"), ("{}的天空", "{}天空", "天空是{}的")),
}
MEASURES = {
    "animal-mammal": "一只", "animal-bird": "一只", "animal-amphibian": "一只", "animal-reptile": "一只",
    "animal-marine": "一条", "animal-bug": "一只", "plant-flower": "一朵", "plant-other": "一棵",
    "transport-ground": "一辆", "transport-water": "一艘", "transport-air": "一架", "clothing": "一件",
}  # fmt: skip
COUNTED = frozenset(("animals-nature", "food-drink", "travel-places", "objects", "activities", "people-body"))


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


def emoji_wordings(key: str, name: Words, group: str | None, sub: str | None) -> list[Words]:
    """Two further wordings of an emoji's name, without its skin tone; one may be the name itself."""
    chance = random.Random(f"wording:{key}")
    short = Words(re.sub(r", [a-z-]+ skin tone", "", name.en), re.sub(r"，[^，]*肤色", "", name.zh))
    if re.search(r"\w face$", short.en) and short.zh.endswith("脸"):  # "cat face" is a cat
        short = Words(short.en.removesuffix(" face"), short.zh[:-1] or short.zh)
    if group not in COUNTED:
        return [short, Words(f"{short.en} emoji", f"{short.zh}表情符号")]
    one = Words(_one_en(short.en), MEASURES.get(sub or "", "一个") + short.zh)
    longer = chance.choice(
        (
            Words(f"a picture of {one.en}", f"{short.zh}的图片"),
            Words(f"{short.en} emoji", f"{short.zh}表情符号"),
            Words(f"a drawing of {one.en}", f"画{one.zh}"),
            Words(short.en, short.zh),
        )
    )
    return [one, longer]


def _one_en(name: str) -> str:
    plural = re.search(r"([^s]s|\b(wo)?men|people)\b", name.split(" with ")[0].split(" of ")[0])
    return name if plural or name.startswith(("the ", "a ", "an ")) else with_article(name)


def icon_wordings(key: str, title: Words, colour: str | None) -> list[Words]:
    """An icon's caption with the word "icon" in it."""
    chance = random.Random(f"wording:{key}")
    paint = Words(f"{colour} ", COLOURS[colour]) if colour else Words("", "")
    forms = (
        Words(f"{paint.en}{title.en} icon", f"{paint.zh}{title.zh}图标"),
        Words(
            with_article(f"{paint.en}{title.en} icon"),
            f"一个{paint.zh}的{title.zh}图标".replace("个的", "个"),
        ),
        Words(f"{paint.en}icon of {_one_en(title.en)}", f"{title.zh}的{paint.zh}图标"),
    )
    return [chance.choice(forms)]


def flag_wordings(country: Words) -> list[Words]:
    """A flag's name the other way round."""
    return [
        Words(f"the flag of {without_article(country.en)}", f"{country.zh}国旗"),
        Words(f"{country.en} flag", f"{country.zh}旗"),
    ]
