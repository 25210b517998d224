"""The documentation is true: its blocks run, its links lead somewhere, the Chinese README says the same.

Every block marked ``sh`` or ``python`` in the README and in ``docs/`` is run in order, in a directory of its
own, with the real commands on a dozen small pictures. Only sizes are changed: recipes get ``--set`` options
that shrink them, and but for the README, which draws with the packaged model, a tiny one has the name
``pictogram``.
"""

from __future__ import annotations

import base64
import json
import math
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, ModelBundle, Role
from cogview.checkpoints.family_writing import write_family
from cogview.checkpoints.provenance import read
from cogview.cli.app import main
from cogview.sequences import CogLMFormat, SequenceFormat
from cogview.sequences.coglm import END
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.training.metrics_file import MetricsFile
from cogview.transformer.model import Transformer, TransformerConfig
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COOKBOOK = sorted((ROOT / "docs" / "cookbook").glob("*.md"))  # run by test_cookbook.py
WRITTEN = [*PAGES, *COOKBOOK, *(ROOT / name for name in ("README.zh.md", "CONTRIBUTING.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
NOT_RUN = {
    "data.md": "its pets/ are the reader's; tests/data runs such commands",
    "researcher.md": "tests/test_researcher.py runs it, with sizes of its own",
    "evaluation.md": "needs the corpus and a trained classifier; tests/evaluation runs its commands",
}
TUTORIAL = "tutorial.md"  # is run with the packaged models
AFTER_README = {"tokenizers.md"}  # use what the README's commands leave

TINY_CODES: dict[str, object] = {"model.codes": 32, "model.code_dim": 4}
TINY_LAYERS = {"model.channels": [8, 8], "model.blocks": [0, 0], "model.attention": False}
SMALLER: dict[str, dict[str, object]] = {
    "image_tokenizer": {"steps": 3, "warmup_steps": 1} | TINY_CODES | TINY_LAYERS,
    "transformer": {"steps": 3, "model.layers": 1, "model.hidden": 16, "model.heads": 2},
    "coglm": {"steps": 3, "model.layers": 1, "model.hidden": 16, "model.heads": 2},
}
TRAIN_ON: dict[str, object] = {"transformer.steps": 3, "transformer.batch_size": 4}
TRAIN_ON_ALONE = {
    **{f"image_tokenizer.{key}": value for key, value in (SMALLER["image_tokenizer"] | TINY_LAYERS).items()},
    **{f"transformer.{key}": value for key, value in SMALLER["transformer"].items()},
}
COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色"}
SHAPES = {"circle": "圆", "square": "方块", "triangle": "三角"}
STYLES = {"flat": {"en": "flat", "zh": "扁平"}, "3d": {"en": "3D", "zh": "三维立体"}}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every block that is to be run."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    """The words of every command in a ``sh`` block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# ---------------------------------------------------------------------------------------------- what they use


def make_pictures(folder: Path) -> None:
    """A dozen captioned pictures, of which some fall into the split ``val``."""
    folder.mkdir()
    for colour, colour_zh in COLOURS.items():
        for shape, shape_zh in SHAPES.items():
            image = Image.new("RGB", (80, 72), "white")
            pen = ImageDraw.Draw(image)
            {
                "circle": lambda c=colour, p=pen: p.ellipse((16, 12, 64, 60), fill=c),
                "square": lambda c=colour, p=pen: p.rectangle((16, 12, 64, 60), fill=c),
                "triangle": lambda c=colour, p=pen: p.polygon(((16, 60), (64, 60), (40, 12)), fill=c),
            }[shape]()
            image.save(folder / f"{colour}-{shape}.png")
            captions = f"a {colour} {shape}\n{colour_zh}的{shape_zh}\n"
            (folder / f"{colour}-{shape}.txt").write_text(captions, encoding="utf-8")


def write_tiny_family(directory: Path, work: Path) -> None:
    """A family named ``pictogram`` with random weights."""
    torch.manual_seed(0)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = TextTokenizer.train(readme.splitlines(), pieces=500)
    shape = ImageTokenizerConfig(
        image_size=12, factors=(3,), channels=(8,), blocks=(0,), codes=32, code_dim=4, attention=False
    )
    vocabulary = Vocabulary(image_codes=32, text_pieces=text.pieces)
    form = SequenceFormat(vocabulary=vocabulary, grid=(4, 4))
    sizes = {"vocab_size": vocabulary.padded_size, "max_positions": form.max_positions}
    double = SequenceFormat(kind="super_resolution", vocabulary=vocabulary, grid=(4, 4), context_grid=(2, 2))
    describing = SequenceFormat(kind="image_to_text", vocabulary=vocabulary, grid=(4, 4), end="[SEP]")
    parts = {name: work / name for name in ("image_tokenizer", "text.model", "base", "sr", "caption")}
    ImageTokenizer(shape).save(parts["image_tokenizer"])
    text.save(parts["text.model"])
    for name in ("base", "sr", "caption"):
        Transformer(TransformerConfig(layers=1, hidden=16, heads=2, **sizes)).save(parts[name])
    images = ImageTokenizer.from_directory(parts["image_tokenizer"])
    config = FamilyConfig(
        name="pictogram",
        vocabulary=vocabulary,
        roles={
            "base": Role(directory="base", sequences=form),
            "super_resolution": Role(directory="sr", sequences=double),
            "caption": Role(directory="caption", sequences=describing),
        },
        styles=STYLES,
        fingerprints=Fingerprints(image_tokenizer=images.fingerprint, text_tokenizer=text.fingerprint),
    )
    write_family(config, directory, parts)


def write_tiny_coglm(directory: Path, work: Path, other: Path) -> None:
    """A family named ``pictogram-2`` with random weights and the tokenizers of another."""
    torch.manual_seed(0)
    text, images = TextTokenizer.from_file(other / "text.model"), other / "image_tokenizer"
    vocabulary = Vocabulary(image_codes=32, text_pieces=text.pieces, controls=(*COGVIEW2_CONTROLS, END))
    form = CogLMFormat(vocabulary=vocabulary, grid=(4, 4), end=END)
    sizes = {"vocab_size": vocabulary.padded_size, "max_positions": form.max_positions}
    Transformer(TransformerConfig(layers=1, hidden=16, heads=2, **sizes)).save(work / "coglm")
    config = FamilyConfig(
        name="pictogram-2",
        vocabulary=vocabulary,
        roles={"base": Role(directory="base", sequences=form)},
        fingerprints=Fingerprints(
            image_tokenizer=ImageTokenizer.from_directory(images).fingerprint, text_tokenizer=text.fingerprint
        ),
    )
    parts = {"image_tokenizer": images, "text.model": other / "text.model", "base": work / "coglm"}
    write_family(config, directory, parts)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as a reader has it: the clone's recipes and examples, some pictures, a file of prompts."""
    place = tmp_path / "clone"
    place.mkdir()
    for name in ("recipes", "examples"):
        shutil.copytree(
            ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "corpus", "cache", "work")
        )
    make_pictures(place / "my-pictures")
    (place / "prompts.txt").write_text("a red apple\n蓝色的香蕉\n", encoding="utf-8")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def tiny_family(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny family is found by the name ``pictogram``, and no other is."""
    for folder in (home / "models", tmp_path / "parts"):
        folder.mkdir()
    write_tiny_family(home / "models" / "pictogram", tmp_path / "parts")
    write_tiny_coglm(home / "models" / "pictogram-2", tmp_path / "parts", home / "models" / "pictogram")
    monkeypatch.setattr("cogview.checkpoints.bundle.PACKAGED", tmp_path / "nothing")


# ---------------------------------------------------------------------------------------------- running


def smaller(words: list[str]) -> list[str]:
    """The options that shrink a command; the last of two equal ones counts."""
    if words[1:4] == ["data", "text-tokenizer", "my-pictures/"]:
        return ["--pieces", "290"]
    if words[1:3] == ["edit", "my-pictures/red-circle.png"]:
        return ["--first-stage-only"]  # tests/cli/test_shipped_models.py edits with all stages
    if words[1] == "serve":
        return ["--check", "--port", "0"]
    if words[1] == "train-on":
        return settings(TRAIN_ON if "--from" in words else TRAIN_ON | TRAIN_ON_ALONE)
    if words[1] == "train" and words[2].endswith(".yaml"):
        task = yaml.safe_load(Path(words[2]).read_text(encoding="utf-8"))["task"]
        return settings(SMALLER[task] | {"batch_size": 4, "threads": 1})
    return []


def settings(values: dict[str, object]) -> list[str]:
    """As options of ``cogview train``."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def run_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One command of a ``sh`` block: it must end with 0 (``make`` and ``pip``: what it names must exist)."""
    if words[0] == "cogview":
        capsys.readouterr()
        code = main([*words[1:], *smaller(words)])
        printed = capsys.readouterr()
        assert code == 0, f"{shlex.join(words)}: {printed.err}"
        look_at_result(words, printed.out)
    elif words[:3] == ["python", "-m", "cogview.onnx"]:
        from cogview.onnx.__main__ import main as run_exported

        capsys.readouterr()
        code = run_exported(words[3:])
        printed = capsys.readouterr()
        assert code == 0, f"{shlex.join(words)}: {printed.err}"
        look_at_result(words[2:], printed.out)
    elif words[0] == "python":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*words[1:], *settings({"steps": 3, "warmup_steps": 1} | TINY_CODES)])
            runpy.run_path(words[1], run_name="__main__")
    elif words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), shlex.join(words)
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        asked = re.findall(r"\[(.+)\]", words[-1])
        assert set(",".join(asked).split(",")) <= {"", *project["optional-dependencies"]}, shlex.join(words)
    else:
        raise AssertionError(
            f"no way to run {shlex.join(words)}; use a plain block for what is not to be run"
        )


def option(words: list[str], *names: str) -> str | None:
    """The value of an option in a command, None where it is not given."""
    found = [value for name, value in pairwise(words) if name in names]
    return found[-1] if found else None


def look_at_result(words: list[str], out: str) -> None:
    """What a command leaves is what it says: pictures that tell their model, models that open, runs with
    finite losses, reports that parse; what leaves nothing prints something."""
    said, verb = shlex.join(words), words[1]
    if verb in ("generate", "edit", "upscale"):
        look_at_pictures(words, out)
    elif verb in ("caption", "score", "rerank", "models", "doctor", "plan", "watch"):
        assert json.loads(out) if "--json" in words else out.strip(), said
    elif verb in ("train-on", "assemble"):
        family = ModelBundle(option(words, "--out", "-o") or words[2])
        for role in family.config.roles:
            weights = family.transformer(role).state_dict().values()
            assert all(weight.isfinite().all() for weight in weights), said
    elif verb == "train":
        look_at_run(words)
    elif verb == "data" and words[2] in ("build", "convert", "cache", "text-tokenizer"):
        assert Path(words[4]).exists(), said
    elif (made := option(words, "--out", "-o")) is not None:
        look_at_files(Path(made), said)
    else:
        assert out.strip(), said


def look_at_pictures(words: list[str], out: str) -> None:
    """Every picture that is named is there, says what made it and is not of one colour."""
    if "--json" in words:
        named = [one if isinstance(one, str) else one["path"] for one in json.loads(out)["pictures"]]
    else:
        named = [line for line in out.splitlines() if not Path(line).name.startswith("grid-")]
    assert named, shlex.join(words)
    for path in named:
        told = read(path)
        assert told is not None and len(told.model_hash) == 64, path
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 1, path


def look_at_run(words: list[str]) -> None:
    """A run's losses are numbers, and its model is there unless it was stopped."""
    recipe = words[2] if words[2].endswith(".yaml") else None
    name = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))["name"] if recipe else ""
    directory = Path(option(words, "--out") or f"runs/{name}")
    losses = [line["loss"] for line in MetricsFile(directory / "metrics.jsonl").lines() if "loss" in line]
    assert losses and all(math.isfinite(loss) for loss in losses), shlex.join(words)
    assert any((directory / "model").glob("*.safetensors")), shlex.join(words)


def look_at_files(made: Path, said: str) -> None:
    """A folder with something in it, or a file that is what its name says."""
    if made.is_dir():
        assert any(made.rglob("*")), said
        return
    content = made.read_bytes()
    assert content, said
    if made.suffix == ".json":
        assert json.loads(content), said
    if made.suffix == ".html":
        assert b"</html>" in content, said


def run_page(page: Path, capsys: pytest.CaptureFixture[str], only: str = "") -> None:
    """All blocks of a page (those with ``only`` in them), in order; Python blocks share their names."""
    names: dict[str, object] = {"__name__": page.name}
    for language, text in blocks(page):
        if only not in text:
            continue
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
        else:
            for words in commands(text):
                run_command(words, capsys)


def test_the_readme_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the packaged model, as a reader's."""
    run_page(PAGES[0], capsys)
    made = {folder: len(list(Path(folder).glob("*.png"))) for folder in ("out", "edited", "large")}
    assert made == {"out": 19, "edited": 4, "large": 1}
    assert Image.open(next(Path("large").glob("*.png"))).size == (216, 216)


@pytest.mark.slow
def test_the_tutorial_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the packaged models; then the page's request is answered by the page's server."""
    page = ROOT / "docs" / TUTORIAL
    run_page(page, capsys)
    assert len(list(Path("out").glob("*.png"))) == 2
    words = next(
        words for words in commands("\n".join(text for _, text in blocks(page))) if words[1:2] == ["serve"]
    )
    body = re.search(r"-d '(.*)'", page.read_text(encoding="utf-8"))
    assert body is not None
    command = [sys.executable, "-m", "cogview.cli", *words[1:], "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "http://" in line)
            [address] = re.findall(r"http://[\d.:]+", line)
            header = {"content-type": "application/json"}
            request = urllib.request.Request(f"{address}/v1/images/generations", body[1].encode(), header)
            with urllib.request.urlopen(request, timeout=120) as answer:
                [made] = json.load(answer)["data"]
        finally:
            server.terminate()
    told = read(base64.b64decode(made["b64_json"]))
    assert told is not None and (told.prompt, told.seed) == ("a red circle", 1)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if blocks(page) and page.name not in {*NOT_RUN, TUTORIAL}],
    ids=lambda page: page.name,
)
def test_a_page_of_the_documentation_runs(
    page: Path, workplace: Path, tiny_family: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.name in AFTER_README:
        run_page(PAGES[0], capsys, only="cogview train")
    run_page(page, capsys)


def test_blocks_are_found_and_a_wrong_one_fails(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The harness itself: nothing passes because nothing was looked at."""
    assert {language for language, _ in blocks(ROOT / "README.md")} == {"sh", "python"}
    assert commands("# x\ncogview a \\\n  'b c'  # d\n") == [["cogview", "a", "b c"]]
    for line in ("cogview generate x --stile flat", "make tea", "pip install -e '.[tea]'", "rm -r out"):
        with pytest.raises(AssertionError):
            run_command(shlex.split(line), capsys)


# ---------------------------------------------------------------------------------------------- reading


def test_both_readmes_have_the_same_blocks() -> None:
    """Comments may be translated; commands and Python may not differ."""
    english, chinese = (
        [commands(text) if language == "sh" else text for language, text in blocks(ROOT / name)]
        for name in ("README.md", "README.zh.md")
    )
    assert english == chinese


def links(page: Path) -> Iterator[str]:
    """Targets of the links and pictures of a page that are files of the repository."""
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", target):
            yield target


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    missing = [link for link in links(page) if not (page.parent / link.partition("#")[0]).exists()]
    assert not missing


def test_every_page_is_in_the_contents() -> None:
    """In the index and in the site's navigation."""
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages - {"index.md"} <= set(links(ROOT / "docs" / "index.md"))
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    entries = [path for entry in site["nav"] for path in entry.values() if isinstance(path, str)]
    own = [path for path in entries if not path.startswith("repository/")]
    assert sorted(own) == sorted(pages)
