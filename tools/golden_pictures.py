"""One half of ``golden.py``: generate, edit, upscale, caption and score with the library on the path.

It runs with the libraries of two commits, whose public names may differ, so every call goes through a small
adapter. Written are SHA-256 sums of pixels, codes and provenance, and captions and scores as they are.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cogview

SAMPLING = ("temperature", "top_k", "top_p", "guidance", "clusters", "cluster_temperature", "emphasis")
NEW = hasattr(cogview, "from_pretrained")
ADDED = ("decoding",)  # settings that files carry since a1c147c; the images are the same with and without
RENAMED = {"emphasis": "text_attention_bias", "share": "mask_ratio"}


def open_model(directory: str, **options: Any) -> Any:
    if NEW:
        return cogview.from_pretrained(directory, **options)
    from cogview.hierarchy import load

    return load(directory, **options)


def called(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call with the options under the names that ``method`` has, in either library's API."""
    known = inspect.signature(method).parameters
    if NEW:
        options = {RENAMED.get(name, name): value for name, value in options.items()}
    elif "settings" in known:
        sampling = {name: options.pop(name) for name in SAMPLING if name in options}
        options["settings"] = sampling
    return method(*arguments, **options)


def generate(model: Any, prompt: str, n: int, seed: int, **options: Any) -> list[Any]:
    """Images of either API; a1c147c draws large images by another method than small ones."""
    method = model.generate if NEW else getattr(model, "draw_large", model.draw)
    return list(called(method, [prompt], n, seed, **options))


def upscale(model: Any, images: Any, **options: Any) -> list[Any]:
    if not NEW and hasattr(model, "enlarge"):
        return list(model.enlarge(images))
    return list(called(model.upscale, images, **options))


def image_of(made: Any) -> Image.Image:
    found: Image.Image = made.image
    return found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def provenance(picture: Any) -> str:
    """What the PNG file says, but for the settings in ``ADDED``."""
    facts = picture.provenance.model_dump(mode="json")
    facts["settings"] = {name: value for name, value in facts["settings"].items() if name not in ADDED}
    return json.dumps(facts, sort_keys=True)


def drawn(pictures: Iterable[Any]) -> dict[str, str]:
    """Sums of the pixels, the codes and what the PNG file says of each picture."""
    made = list(pictures)
    facts = [provenance(one) for one in made]
    return {
        "pixels": sha(b"".join(image_of(one).tobytes() for one in made)),
        "codes": sha(b"".join(np.asarray(one.codes, dtype=np.int64).tobytes() for one in made)),
        "provenance": sha("\n".join(facts).encode()),
    }


def written(captions: list[list[Any]]) -> dict[str, str]:
    return {"text": json.dumps([[(c.text, c.score) for c in own] for own in captions], ensure_ascii=False)}


def numbers(scores: Any) -> dict[str, str]:
    return {"scores": json.dumps(np.asarray(scores).tolist())}


def photo(size: tuple[int, int]) -> Image.Image:
    """Something to edit and to enlarge: a gradient with a red square."""
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([255 * x // size[0], 255 * y // size[1], np.full_like(x, 200)], -1).astype(np.uint8)
    pixels[size[1] // 4 : size[1] // 2, size[0] // 3 : size[0] // 2] = (200, 30, 30)
    return Image.fromarray(pixels)


def of_every_family(model: Any, small: dict[str, Any]) -> dict[str, Callable[[], dict[str, str]]]:
    pair: list[Any] = []

    def first() -> list[Any]:
        if not pair:
            pair.extend(generate(model, "a blue monster with round eyes", 2, 7, **small))
        return pair

    both = ["a red apple", "红色的苹果"]
    return {
        "generate two": lambda: drawn(first()),
        "generate second alone": lambda: drawn(
            generate(model, "a blue monster with round eyes", 1, 7, first=1, **small)
        ),
        "generate without guidance": lambda: drawn(
            generate(model, "一只红色的猫", 1, 3, guidance=1.0, **small)
        ),
        "generate in a style": lambda: drawn(generate(model, "a red apple", 1, 5, style="flat", **small)),
        "generate sampled": lambda: drawn(
            generate(model, "a red apple", 1, 5, temperature=0.9, top_k=50, top_p=0.9, emphasis=0.5, **small)
        ),
        "generate the best": lambda: drawn(generate(model, "a red apple", 1, 5, best_of=2, **small)),
        "generate fairly": lambda: drawn(generate(model, "a doctor", 2, 5, fairness="world", **small)),
        "generate truncated": lambda: drawn(
            generate(model, "a red apple beside a green pear " * 20, 1, 5, truncate=True, **small)
        ),
        "caption with beams": lambda: written(
            called(model.caption, [*first(), photo((90, 70))], 2, language="en")
        ),
        "caption sampled": lambda: written(called(model.caption, first(), 2, language="zh", seed=4, top_k=9)),
        "score": lambda: numbers(called(model.score, [*first(), photo((90, 70))], both)),
        "score released": lambda: numbers(called(model.score, first(), both, released=True)),
        "rerank": lambda: numbers(
            [(r.number, r.score) for r in called(model.rerank, "a red apple", [photo((72, 72)), *first()])]
        ),
    }


def of_pictogram(model: Any) -> dict[str, Callable[[], dict[str, str]]]:
    return of_every_family(model, {}) | {
        "upscale generated": lambda: drawn(upscale(model, generate(model, "a red apple", 1, 5), times=2)),
        "upscale a photo": lambda: drawn(upscale(model, photo((72, 72)), prompt="a square", seed=3)),
        "upscale freely": lambda: drawn(
            upscale(model, photo((72, 72)), prompt="a square", seed=3, faithful=False, guidance=2.0)
        ),
        "upscale four times": lambda: drawn(
            upscale(model, photo((72, 72)), prompt="a square", seed=3, times=4)
        ),
    }


def of_pictogram_2(model: Any) -> dict[str, Callable[[], dict[str, str]]]:
    def edit(size: tuple[int, int], **options: Any) -> dict[str, str]:
        return drawn(called(model.edit, photo(size), "a green apple", **options))

    boxes: list[Any] = [(10, 10, 40, 40), (50, 50, 64, 64)]
    return of_every_family(model, {"first_stage_only": True}) | {
        "generate large": lambda: drawn(generate(model, "a blue monster with round eyes", 2, 7)),
        "generate diagonally": lambda: drawn(generate(model, "a red apple", 1, 7, order="diagonal")),
        "generate clustered": lambda: drawn(
            generate(model, "a red apple", 1, 5, clusters=20, cluster_temperature=0.9, first_stage_only=True)
        ),
        "upscale small": lambda: drawn(
            upscale(model, generate(model, "a red apple", 1, 5, first_stage_only=True))
        ),
        "edit at once": lambda: edit((72, 72), boxes=boxes, n=2, seed=3),
        "edit one by one": lambda: edit((72, 72), boxes=boxes, seed=3, order="one_by_one"),
        "edit large": lambda: edit((200, 160), boxes=[(20, 20, 150, 140)], seed=3, style="flat"),
        "edit tight": lambda: edit((200, 160), boxes="10%,10%,30%,30%", seed=3, crop="tight", best_of=2),
        "edit small only": lambda: edit((200, 160), boxes=boxes, seed=3, first_stage_only=True, feather=0),
        "vary": lambda: drawn(called(model.vary, photo((72, 72)), "a red apple", n=2, seed=3)),
        "vary large": lambda: drawn(called(model.vary, photo((144, 100)), n=1, seed=3, share=0.3)),
    }


SLOW = {  # over half a minute each on an idle core
    "pictogram": ("upscale freely", "upscale four times"),
    "pictogram-2": ("generate large", "generate diagonally", "edit large", "vary large"),
}
CASES = {"pictogram": of_pictogram, "pictogram-2": of_pictogram_2}


def outcome(run: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What a case gives; an error is a result too, so that the other cases are still compared."""
    try:
        return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(out: Path, slow: bool, only: str, directories: list[str]) -> None:
    found: dict[str, str] = {}
    for directory in directories:
        name = Path(directory).name
        for options in ({}, {"deterministic": True}):
            cases = CASES[name](open_model(directory, **options))
            quick = [case for case in cases if slow or case not in SLOW[name]]
            names = ("generate two", "score") if options else quick
            chosen = {case: cases[case] for case in names if only in case}
            way = " deterministic" if options else ""
            for case, run in chosen.items():
                started = time.monotonic()
                found |= {f"{name}: {case}{way} {what}": value for what, value in outcome(run).items()}
                print(f"{name}: {case}{way}, {time.monotonic() - started:.1f} s", file=sys.stderr)
    out.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "slow", sys.argv[3], sys.argv[4:])
