"""``cogview generate``: pictures for sentences, each in a file of its own as soon as it is ready."""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogview.cli.batches import MaxBatch, batch_limit
from cogview.cli.opening import (
    Ability,
    DecodingOption,
    DeviceOption,
    Place,
    ThreadsOption,
    check_model,
    check_prompts,
    check_sampling,
    check_times,
    open_model,
)
from cogview.cli.precision import PrecisionOption
from cogview.cli.progress import bar
from cogview.errors import CogViewError
from cogview.untrusted import read_text

if TYPE_CHECKING:
    from PIL import Image

    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.base import ProgressParts
    from cogview.pipelines.model import Pipeline
    from cogview.pipelines.output import GeneratedImage
    from cogview.transformer.config import ThreeRegionConfig

MAX_PROMPTS = 64 << 20  # bytes of a file of prompts
COLUMNS = 8  # of a contact sheet, at most
GAP = 2  # pixels between its pictures
NAME_LENGTH = 40  # characters of a prompt in a file's name
OWN = ("best_of", "fairness")  # settings that differ from picture to picture
WORDS = 5  # unfamiliar ones that are named
ENLARGED = 8  # pictures enlarged together; they are written then


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="What to draw, in Chinese or English.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A text file with a prompt on each line.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Pictures for each prompt.")] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            help="GeneratedImage i of a seed is always the same one.", show_default="a new one each time"
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pictures.")] = Path("out"),
    model: Annotated[
        str, typer.Option(help="A model's name (see cogview models) or directory.")
    ] = "pictogram",
    style: Annotated[str | None, typer.Option(help="A style of the model (see cogview models).")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 safer, above 1 wilder.", show_default="the model's")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Keep the k likeliest tokens; 0: all.", show_default="the model's")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Keep tokens up to this probability; 1 or 0: all.", show_default="the model's"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Above 1: closer to the prompt, in twice the time.", show_default="the model's"),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(
            min=0, help="Keep the k likeliest clusters of codes; 0: off.", show_default="the model's"
        ),
    ] = None,
    emphasis: Annotated[
        float | None, typer.Option(help="Added to attention towards the text.", show_default="the model's")
    ] = None,
    upscale: Annotated[
        int | None,
        typer.Option("--upscale", metavar="TIMES", help="Enlarge each picture, 2 or 4 times (see upscale)."),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            min=1, metavar="K", help="Draw K for each picture wanted, keep those the prompt describes best."
        ),
    ] = 1,
    fairness: Annotated[
        str | None,
        typer.Option(
            "--fairness",
            metavar="TABLE",
            help="Add words about people by a table's proportions: a YAML file, or world.",
        ),
    ] = None,
    first_stage_only: Annotated[
        bool,
        typer.Option(
            "--first-stage-only", "--no-upscale", help="Models of several steps: leave pictures small."
        ),
    ] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="The same: cut a prompt that is too long for a step.")
    ] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Write a contact sheet too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
    precision: PrecisionOption = "fp32",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Exactly the same whatever else is drawn; slower.")
    ] = False,
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora", metavar="DIR", help="An adapter: a run that trained one, or its name in the model."
        ),
    ] = None,
    lora_strength: Annotated[float, typer.Option(help="How much of the adapter; 0: nothing.")] = 1.0,
    sparse: Annotated[
        str | None,
        typer.Option(
            "--sparse",
            metavar="WINDOW,TIMES,PIVOTS",
            help="Draw with three-region sparse attention: 128,6,768 as released.",
        ),
    ] = None,
    decoding: DecodingOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    max_batch: MaxBatch = None,
) -> None:
    """Draw pictures.

    Each is a PNG file with prompt, seed, settings and model inside.
    With the same seed, picture i is the same picture alone and among others.
    Stopped early, what is finished is there.

    Examples:

      cogview generate "a blue monster, round eyes, red background" -n 4 --seed 7 -o out/ --grid

      cogview generate "一只猫" --style 3d --best-of 8 -o out/

      cogview generate --prompts prompts.txt --model pictogram-2 -o large/ --json
    """
    from cogview.generation.fairness import read_table

    texts = [*(prompts or ()), *read_prompts(file)]
    if not texts:
        raise CogViewError("give a prompt in quotes, or a file of prompts with --prompts")
    batch_size, place = batch_limit(max_batch), Place(device, threads, precision, decoding)
    check_folder(out)
    check_prompts(texts)
    settings = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "clusters": clusters,
        "emphasis": emphasis,
    }
    needed: list[Ability] = ["generate"]
    needed += ["score"] if best_of > 1 else []
    needed += ["upscale"] if upscale is not None else []
    family = check_model(model, *needed)
    params = check_sampling(family, settings, seed, style)
    if upscale is not None:
        check_times(family, upscale)
    if lora is not None:
        family.adapter(lora)
    if fairness is not None:
        read_table(fairness)
    if first_stage_only and "direct" not in family.config.roles:
        raise CogViewError(f"{model} draws in one step; leave out --first-stage-only")
    regions = None if sparse is None else three_region(sparse)
    tell_unfamiliar(family, texts)
    from cogview.pipelines.base import ProgressParts, encode_caption

    started = time.monotonic()
    cogview = open_model(
        family,
        place,
        deterministic=deterministic,
        lora=lora,
        lora_strength=lora_strength,
        sparse=regions,
    )
    made: list[tuple[GeneratedImage, Path]] = []
    if upscale is not None:  # what cannot be upscaled is refused before anything is drawn
        limit = cogview.super_resolution.format.text_limit
        for request in cogview.text_to_image.requests(texts, style=style):
            encode_caption(cogview.components, request.caption, limit)

    def keep(picture: GeneratedImage) -> None:
        made.append((picture, write(picture.png(), out, name_for(picture))))

    with bar() as show, telling_what_is_done(made, out):
        codes = len(texts) * n * cogview.text_to_image.format.codes
        parts = ProgressParts(show, codes * (best_of + (upscale**2 if upscale else 0)))
        waiting = Enlarging(cogview, upscale, batch_size, parts, keep)
        cogview.generate(
            texts,
            n,
            seed,
            params=params,
            style=style,
            best_of=best_of,
            fairness=fairness,
            first_stage_only=first_stage_only,
            truncate=truncate,
            batch_size=batch_size,
            progress=parts.part(codes * best_of),
            callback=keep if upscale is None else waiting.add,
        )
        waiting.finish()
    sheet = write_sheet([picture for picture, _ in made], n, out) if grid else None
    report(made, sheet, time.monotonic() - started, as_json)


def tell_unfamiliar(family: ModelBundle, texts: Sequence[str]) -> None:
    """Say on stderr which words of the prompts the model hardly knows, such as those of other languages."""
    tokenizer = family.text_tokenizer()
    words = dict.fromkeys(word for text in texts for word in tokenizer.unfamiliar(text))
    if words:
        shown = ", ".join([*words][:WORDS]) + (", …" if len(words) > WORDS else "")
        languages = " and ".join(
            {"en": "English", "zh": "Chinese"}.get(x, x) for x in family.config.templates
        )
        typer.echo(f"{family.config.name} reads {languages}; it hardly knows: {shown}", err=True)


@dataclass
class Enlarging:
    """Pictures that wait to be enlarged, some at a time; then ``keep`` gets them."""

    cogview: Pipeline
    times: int | None
    batch_size: int | None
    parts: ProgressParts
    keep: Callable[[GeneratedImage], None]
    waiting: list[GeneratedImage] = field(default_factory=list)

    def add(self, picture: GeneratedImage) -> None:
        """One more; enough are enlarged."""
        self.waiting.append(picture)
        if len(self.waiting) == ENLARGED:
            self.finish()

    def finish(self) -> None:
        """Enlarge those that wait."""
        some, self.waiting = self.waiting, []
        if some and self.times is not None:
            size = len(some) * self.cogview.text_to_image.format.codes * self.times**2
            self.cogview.upscale(
                some,
                times=self.times,
                batch_size=self.batch_size,
                progress=self.parts.part(size),
                callback=self.keep,
            )


def three_region(text: str) -> ThreeRegionConfig:
    """``WINDOW,TIMES,PIVOTS`` as the sizes of three-region attention."""
    from cogview.config import validate
    from cogview.transformer.config import ThreeRegionConfig

    names, values = ("window", "times", "pivots"), text.split(",")
    if len(values) != len(names) or not all(value.strip().isdigit() for value in values):
        raise CogViewError(
            f"--sparse {text}: write three whole numbers, WINDOW,TIMES,PIVOTS, such as 64,4,256"
        )
    numbers = {name: int(value) for name, value in zip(names, values, strict=True)}
    return validate(ThreeRegionConfig, numbers, "--sparse")


def read_prompts(file: Path | None, what: str = "prompt") -> list[str]:
    """The lines of a UTF-8 file that are not empty."""
    if file is None:
        return []
    lines = read_text(file, MAX_PROMPTS, "utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise CogViewError(f"{file}: there is no {what} in it; write one on each line")
    return found


def check_folder(folder: Path) -> None:
    """Make the folder, and see that a file can be written there, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CogViewError(f"{folder}: cannot be written to ({error.strerror}); choose another -o") from error


def name_for(picture: GeneratedImage) -> str:
    """The start of the prompt, the seed and the number, as a file name without its ending."""
    words = re.sub(r"[\W_]+", "-", picture.prompt).strip("-")[:NAME_LENGTH].strip("-")
    return f"{words or 'picture'}-{picture.seed}-{picture.index:02d}"


def write(content: bytes, folder: Path, name: str) -> Path:
    """Write a PNG under ``name``, or ``name-2`` and so on where another picture has it; the path.

    The same picture is the same file: where it is there already, it stays.
    """
    from cogview.files import write_new

    first = folder / f"{name}.png"
    try:
        return write_new(lambda number: first if number == 1 else folder / f"{name}-{number}.png", content)
    except OSError as error:
        raise CogViewError(f"{first}: cannot be written ({error.strerror or error})") from error


def contact_sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """All images, ``columns`` in a row, on white; they have one size."""
    from PIL import Image

    (width, height), rows = images[0].size, math.ceil(len(images) / columns)
    size = (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    for i, image in enumerate(images):
        sheet.paste(image, (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)))
    return sheet


def write_sheet(pictures: Sequence[GeneratedImage], n: int, folder: Path) -> Path:
    """The contact sheet as a file: one row (or more, if n is large) for each prompt."""
    import io

    buffer = io.BytesIO()
    contact_sheet([picture.image for picture in pictures], min(n, COLUMNS)).save(buffer, "PNG")
    return write(buffer.getvalue(), folder, f"grid-{pictures[0].seed}")


def report(
    made: list[tuple[GeneratedImage, Path]], sheet: Path | None, seconds: float, as_json: bool
) -> None:
    """Paths on stdout and a summary on stderr, or everything as JSON."""
    first = made[0][0]
    if as_json:
        typer.echo(json.dumps(facts(made, sheet, seconds), indent=2, ensure_ascii=False))
        return
    for path in [path for _, path in made] + ([sheet] if sheet else []):
        typer.echo(path)
    count = f"{len(made)} picture{'s' if len(made) > 1 else ''}"
    typer.echo(f"{count} in {seconds:.1f} s, seed {first.seed}, model {first.model}", err=True)


def facts(made: list[tuple[GeneratedImage, Path]], sheet: Path | None, seconds: float) -> dict[str, Any]:
    """What ``--json`` prints."""
    first = made[0][0]
    return {
        "model": first.model,
        "model_hash": first.model_hash,
        "seed": first.seed,
        "settings": {name: value for name, value in first.settings.items() if name not in OWN},
        "seconds": round(seconds, 3),
        "pictures": [
            {"path": str(path), "prompt": picture.prompt, "caption": picture.caption, "index": picture.index}
            | {name: value for name, value in picture.settings.items() if name in OWN}
            for picture, path in made
        ],
        "grid": str(sheet) if sheet else None,
    }


@contextlib.contextmanager
def telling_what_is_done(made: list[tuple[GeneratedImage, Path]], folder: Path) -> Iterator[None]:
    """When stopped by Ctrl-C, say how many pictures are there."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"{len(made)} finished, in {folder}", err=True)
        raise
