"""The sixty prompts of everyday.yaml, one image each of seed 0, as a table in Markdown files.

    python examples/pictogram/gallery.py --model pictogram README.md README.zh.md

None is chosen by hand. Each file's table stands between two marks (``MARKS``); images go to ``--images``, as
WebP files of ``--size`` pixels.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from PIL import Image

from cogview import from_pretrained
from cogview.errors import CogViewError
from cogview.files import write_file

HERE = Path(__file__).parent
MARKS = "<!-- everyday: begin -->", "<!-- everyday: end -->"
COLUMNS = 6


def read_prompts(path: Path = HERE / "everyday.yaml") -> list[tuple[str, str]]:
    """(prompt, the same in the other language) of each line."""
    return [(prompt, other) for prompt, other in yaml.safe_load(path.read_text("utf-8"))]


def table(
    prompts: Sequence[tuple[str, str]], images: Sequence[Path], start: Path, columns: int = COLUMNS
) -> str:
    """A Markdown table of images over their prompts; paths as seen from the folder ``start``."""
    columns = columns or COLUMNS

    def lines() -> Iterator[str]:
        for first in range(0, len(prompts), columns):
            row = range(first, min(first + columns, len(prompts)))
            places = [Path(os.path.relpath(images[n], start)).as_posix() for n in row]
            shown = [f"![{prompts[n][0]}]({place})" for n, place in zip(row, places, strict=True)]
            yield f"| {' | '.join(shown)} |"
            if first == 0:
                yield f"|{':-:|' * columns}"
            yield f"| {' | '.join(f'{prompts[n][0]}<br><sub>{prompts[n][1]}</sub>' for n in row)} |"

    return "\n".join(lines())


def insert(text: str, content: str, where: str) -> str:
    """``text`` with what stands between the marks replaced; CogViewError without them."""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise CogViewError(
            f"{where} has no {MARKS[0]} … {MARKS[1]}; add the two lines where the table is to stand"
        )
    return f"{before}{begin}\n{content}\n{end}{after}"


def draw(model: str, prompts: Sequence[tuple[str, str]], folder: Path, size: int) -> list[Path]:
    """Image 0 of seed 0 of each prompt, written to ``folder``."""
    family = from_pretrained(model)
    texts = [prompt for prompt, _ in prompts]
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / f"{number:02d}.webp" for number in range(1, len(texts) + 1)]
    for place, made in zip(places, family.generate(texts, seed=0, batch_size=16), strict=True):
        image = made.image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        image.save(place, quality=85, method=6)
    return places


def main() -> None:
    """Draw, and put the table into every file named."""
    parser = argparse.ArgumentParser(description="Show sixty everyday prompts, seed 0.")
    parser.add_argument("files", nargs="+", type=Path, help="Markdown files with the two marks")
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--images", type=Path, default=HERE.parents[1] / "docs" / "images" / "everyday")
    parser.add_argument("--size", type=int, default=128)
    given = parser.parse_args()
    prompts = read_prompts()
    before = {file: file.read_text("utf-8") for file in given.files}
    for file, text in before.items():
        insert(text, "", str(file))  # missing marks are reported before anything is drawn
    images = draw(given.model, prompts, given.images, given.size)
    for file, text in before.items():
        write_file(file, insert(text, table(prompts, images, file.parent), str(file)))


if __name__ == "__main__":
    try:
        main()
    except (CogViewError, OSError) as error:
        sys.exit(f"gallery.py: {error}")
