"""``python -m cogview.onnx``: generate, edit, caption, score and upscale with an exported model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from cogview.errors import CogViewError
from cogview.files import write_new
from cogview.types import Decoding, SamplingParams

SAMPLING = {name: field.alias or name for name, field in SamplingParams.model_fields.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = args.run
    try:
        run(args)
    except CogViewError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    root = argparse.ArgumentParser(prog="python -m cogview.onnx", description=__doc__, allow_abbrev=False)
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    one = _command(commands, "generate", _generate, "Generate images from prompts, Chinese or English.")
    one.add_argument("prompts", nargs="+", metavar="PROMPT")
    one.add_argument("-n", type=int, default=1, help="images per prompt")
    one.add_argument("--seed", type=int, help="the same seed gives the same images")
    one.add_argument("--first", type=int, default=0, help="index of the first image")
    one.add_argument("--style", help="one of the model's styles")
    one.add_argument("--negative-prompt", help="the prompt that guidance moves away from")
    one.add_argument("--best-of", type=int, default=1, help="generate this many candidates, keep the best")
    _first_stage(one)
    _sampling(one)
    _out(one)

    one = _command(commands, "edit", _edit, "Generate part of an image again from a prompt.")
    one.add_argument("image", type=Path, metavar="IMAGE")
    one.add_argument("prompt", metavar="PROMPT", help="what the entire image should show")
    one.add_argument("--mask", type=Path, help="an image that is white where it is generated again")
    one.add_argument("--box", action="append", default=[], help="x0,y0,x1,y1 in pixels or percent")
    one.add_argument("-n", type=int, default=1, help="number of results")
    one.add_argument("--seed", type=int)
    one.add_argument("--style", help="one of the model's styles")
    one.add_argument("--negative-prompt", help="the prompt that guidance moves away from")
    _first_stage(one)
    _sampling(one)
    _out(one)

    one = _command(commands, "caption", _caption, "Caption images.")
    one.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    one.add_argument("-n", type=int, default=1, help="captions per image")
    one.add_argument("--language", choices=("zh", "en"))
    one.add_argument("--seed", type=int, help="sample captions instead of using beam search")

    one = _command(commands, "score", _score, "The caption loss of texts for images, in nats per token.")
    one.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    one.add_argument("--text", required=True, action="append", help="may be repeated")

    one = _command(commands, "upscale", _upscale, "Upscale images; the model generates the missing detail.")
    one.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    one.add_argument("--prompt", help="what they show; default: the prompt in their provenance")
    one.add_argument("--seed", type=int)
    one.add_argument("--times", type=int, help="scale factor; default: 2, or that of two-stage models")
    _sampling(one)
    _out(one)
    return root


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], help: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help, allow_abbrev=False
    )
    command.set_defaults(run=run)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="written by `cogview export onnx`")
    command.add_argument("--threads", type=int, help="default: what other programs leave")
    command.add_argument("--decoding", choices=get_args(Decoding), default="auto")
    return command


def _first_stage(command: argparse.ArgumentParser) -> None:
    command.add_argument("--first-stage-only", action="store_true", help="do not upscale the results")


def _sampling(command: argparse.ArgumentParser) -> None:
    for name, shown in SAMPLING.items():
        field = SamplingParams.model_fields[name]
        kind: Any = field.annotation
        flag = f"--{shown.replace('_', '-')}"
        command.add_argument(flag, dest=name, type=kind, metavar="X", help=field.description)


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--out", type=Path, default=Path(), help="folder for the images")


def _model(given: argparse.Namespace) -> Any:
    from cogview.onnx import load

    return load(given.folder, given.threads, given.decoding)


def _sampling_options(given: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(given, name) for name in SAMPLING}


def _generate(given: argparse.Namespace) -> None:
    images = _model(given).generate(
        given.prompts,
        given.n,
        given.seed,
        style=given.style,
        negative_prompt=given.negative_prompt,
        first=given.first,
        best_of=given.best_of,
        first_stage_only=given.first_stage_only,
        **_sampling_options(given),
    )
    for number, image in enumerate(images):
        _write(given.out, f"{number // given.n:02d}-{image.seed}-{image.index}", image.png())


def _edit(given: argparse.Namespace) -> None:
    images = _model(given).edit(
        given.image,
        given.prompt,
        given.mask,
        given.n,
        given.seed,
        boxes=given.box,
        style=given.style,
        negative_prompt=given.negative_prompt,
        first_stage_only=given.first_stage_only,
        **_sampling_options(given),
    )
    for image in images:
        _write(given.out, f"{given.image.stem}-{image.seed}-{image.index}", image.png())


def _upscale(given: argparse.Namespace) -> None:
    model = _model(given)
    for path in given.images:
        [image] = model.upscale(path, given.prompt, given.seed, times=given.times, **_sampling_options(given))
        _write(given.out, f"{path.stem}-{given.times or model.upscales}x", image.png())


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write a PNG under an unused name, and print the path."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = write_new(lambda i: folder / (f"{name}.png" if i == 1 else f"{name} ({i}).png"), content)
    except OSError as error:
        raise CogViewError(f"{folder}: cannot be written ({error.strerror or error})") from error
    print(path)


def _caption(given: argparse.Namespace) -> None:
    for path, captions in zip(
        given.images,
        _model(given).caption(given.images, given.n, given.language, seed=given.seed),
        strict=True,
    ):
        for one in captions:
            print(f"{path}\t{one.text}")


def _score(given: argparse.Namespace) -> None:
    losses = _model(given).score(given.images, given.text)
    for path, row in zip(given.images, losses.tolist(), strict=True):
        for text, loss in zip(given.text, row, strict=True):
            print(f"{path}\t{loss:.4f}\t{text}")


if __name__ == "__main__":
    sys.exit(main())
