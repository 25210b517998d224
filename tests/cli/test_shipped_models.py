"""Every command that takes a model, with both models that come with the package, as it is typed.

What a model has a role for works; for the rest there is exit code 2 and one line that says what is missing
and what to do. Pictures of ``pictogram`` have 72 pixels a side, those of ``pictogram-2`` 216, and 72 after
its first step. The mistakes that any model shares, and most options, are in the other files here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytest import CaptureFixture

from cogview.checkpoints import provenance
from cogview.checkpoints.bundle import PACKAGED, ModelBundle
from cogview.checkpoints.provenance import Provenance, model_hash
from cogview.cli.app import VERBS, load, main
from tests.evaluation import toy

ONE, TWO = "pictogram", "pictogram-2"
MODELS = (ONE, TWO)
APPLE = "a red apple"
QUICK = ("--guidance", "1")  # half the work
SMALL = {ONE: (), TWO: ("--first-stage-only",)}
Run = Callable[..., str]


@pytest.fixture
def run(capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What a command that works prints; it runs in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(verb: str, *more: object) -> str:
        code = main([*verb.split(), *map(str, more)])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return command


@pytest.fixture
def refuse(capsys: CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The one line of a command that is refused; it writes nothing."""
    monkeypatch.chdir(tmp_path)

    def command(verb: str, *more: object) -> str:
        assert main([*verb.split(), *map(str, more)]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and not printed.out
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        return printed.err

    return command


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a mask, toy data, an edit to make, a set of prompts."""
    root = tmp_path_factory.mktemp("things")
    photo(72).save(root / "small.png")
    photo(216).save(root / "large.png")
    photo(24).save(root / "tiny.png")
    Image.new("RGB", (72, 72), "red").save(root / "red.png")
    mask = np.zeros((72, 72), dtype=np.uint8)
    mask[:24, :24] = 255
    Image.fromarray(mask).save(root / "mask.png")
    toy.write(root / "corpus", toy.rows(120))
    (root / "pictures").mkdir()
    photo(144).save(root / "pictures" / "one.png")
    (root / "pictures" / "one.txt").write_text(APPLE)
    write_edits(root / "edits")
    asked = {"style": "blot", "attribute": "body_color", "prompts": ["circle"]}
    (root / "audit.yaml").write_text(json.dumps({"sets": {"blots": asked}}))
    return root


@pytest.fixture(scope="module")
def classifier(things: Path) -> Path:
    words = ["eval", "train-classifier", "--corpus", str(things / "corpus"), "--size", "24", "--rare", "2"]
    assert main([*words, "--epochs", "0.1", "--batch", "16", "--out", str(things / "classifier")]) == 0
    return things / "classifier"


def photo(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write_edits(folder: Path) -> None:
    """One task: a red square shall be blue."""
    folder.mkdir()
    before, after = ({"body_color": colour, "shape": "square"} for colour in ("red", "blue"))
    toy.draw("blot", before, 72).save(folder / "picture.png")
    toy.draw("blot", after, 72).save(folder / "answer.png")
    mask = np.zeros((72, 72), dtype=np.uint8)
    mask[15:57, 15:57] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    row: dict[str, Any] = {"key": "blot/1", "style": "blot", "attribute": "body_color"}
    row |= {"before": before, "after": after, "captions": {"en": "blue square", "zh": "蓝色的方块"}}
    row |= {"picture": "picture.png", "mask": "mask.png", "answer": "answer.png"}
    (folder / "edits.jsonl").write_text(json.dumps(row) + "\n")


def made(path: str | Path, model: str, side: int, prompt: str = APPLE) -> Provenance:
    """What a picture tells of itself, after its size, model and prompt."""
    with Image.open(path) as image:
        assert image.size == (side, side) and image.mode == "RGB"
        assert np.asarray(image).std() > 1  # something is drawn
    told = provenance.read(path)
    assert told is not None and (told.model, told.prompt) == (model, prompt)
    assert told.model_hash == model_hash(PACKAGED / model)
    return told


# ------------------------------------------------------------------------------------------ drawing


def test_generate_by_all_three_steps(run: Run) -> None:
    facts = json.loads(run("generate", APPLE, "--model", TWO, "--seed", 1, "--json", *QUICK))
    told = made(facts["pictures"][0]["path"], TWO, 216)
    assert told.settings["super_resolution"] == "direct and iterative"
    assert (facts["model"], facts["model_hash"], told.seed, told.index) == (TWO, told.model_hash, 1, 0)


@pytest.mark.parametrize("model", MODELS)
def test_generate_the_best_in_a_style_with_a_sheet(run: Run, model: str) -> None:
    words = ("--style", "flat", "--grid", "--best-of", 2, "--seed", 4, "--deterministic")
    picture, sheet = run("generate", "红苹果", "--model", model, *words, *SMALL[model], *QUICK).split()
    settings = made(picture, model, 72, "红苹果").settings
    assert (settings["style"], settings["guidance"], settings["deterministic"]) == ("flat", 1, True)
    choice = settings["best_of"]
    assert isinstance(choice, dict) and (choice["of"], choice["rank"]) == (2, 0)
    with Image.open(sheet) as page:
        assert page.size == (76, 76)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_each_precision(run: Run, things: Path, precision: str) -> None:
    """Of the one all codes are drawn, of the other a few."""
    ways = ("--precision", precision, "--seed", 1, *QUICK)
    drawn = made(run("generate", APPLE, "--model", ONE, *ways).strip(), ONE, 72)
    words = (things / "small.png", APPLE, "--box", "0,0,24,24", "--model", TWO)
    edited = made(run("edit", *words, *ways).strip(), TWO, 72)
    assert drawn.settings["precision"] == edited.settings["precision"] == precision


def test_upscale(run: Run, things: Path) -> None:
    words = ("--model", ONE, "--prompt", APPLE, "--size", 36, "--seed", 1, "--json")
    [facts] = json.loads(run("upscale", things / "tiny.png", *words))["pictures"]
    told = made(facts["path"], ONE, 72)
    assert (told.settings["task"], told.settings["times"]) == ("upscale", 2)


# ------------------------------------------------------------------------------------------ editing


@pytest.mark.parametrize(
    "options", [("--box", "0,0,24,24", "--order", "one_by_one"), ("--mask", "mask.png", "--best-of", "2")]
)
def test_edit_keeps_what_is_not_masked(run: Run, things: Path, options: tuple[str, ...]) -> None:
    words = [str(things / word) if word == "mask.png" else word for word in options]
    path = run("edit", things / "small.png", APPLE, *words, "--model", TWO, "--seed", 1, *QUICK).strip()
    assert made(path, TWO, 72).settings["task"] == "edit"
    before, after = np.asarray(photo(72)), np.asarray(Image.open(path))
    same = (before == after).all(-1)
    assert not same[4:20, 4:20].all() and same[24:].all() and same[:, 24:].all()


def test_edit_a_large_picture(run: Run, things: Path) -> None:
    words = ("--box", "0,0,50%,50%", "--first-stage-only", "--model", TWO, "--seed", 1, "--json", *QUICK)
    [path] = json.loads(run("edit", things / "large.png", APPLE, *words))["pictures"]
    made(path, TWO, 216)
    before, after = np.asarray(photo(216)), np.asarray(Image.open(path))
    assert (before[108:] == after[108:]).all() and (before[:100, :100] != after[:100, :100]).any()


def test_edit_varies(run: Run, things: Path) -> None:
    words = ("--vary", 0.2, "--model", TWO, "--seed", 1)
    told = made(run("edit", things / "small.png", *words).strip(), TWO, 72, "")
    assert told.settings["task"] == "vary"


# ------------------------------------------------------------------------------------------- saying


@pytest.mark.parametrize("model", MODELS)
def test_caption(run: Run, things: Path, model: str) -> None:
    words = ("--model", model, "--max-length", 4)
    english = run("caption", things / "red.png", "--lang", "en", *words)
    assert re.fullmatch(r"[ -~]+\n", english)
    facts = json.loads(run("caption", things / "red.png", "--lang", "zh", "--json", *words))
    [chinese] = facts["pictures"][0]["captions"]
    assert facts["model"] == model and re.search("[一-鿿]", chinese["text"]) and chinese["score"] < 0
    assert run("caption", things / "red.png", "--seed", 3, "--precision", "int8", *words).strip()


@pytest.mark.parametrize("model", MODELS)
def test_score_and_rerank(run: Run, things: Path, model: str) -> None:
    """A red apple is rather a red square than noise."""
    images = (things / "red.png", things / "small.png")
    texts = ("--text", APPLE, "--text", "红苹果", "--model", model)
    facts = json.loads(run("score", *images, *texts, "--json"))
    table = np.array(facts["scores"])
    assert facts["model"] == model and table.shape == (2, 2) and (table > 0).all()
    assert table[0, 0] < table[1, 0]
    released = run("score", images[0], "--text", APPLE, "--released", "--model", model).split("\t")
    assert float(released[1]) < 0
    lines = run("rerank", APPLE, *images[::-1], "--model", model, "--keep", 1, "-o", "best").splitlines()
    assert [line.split("\t")[2] for line in lines[:2]] == [str(path) for path in images]
    assert float(lines[0].split("\t")[1]) == pytest.approx(table[0, 0], abs=1e-3)
    assert Path(lines[2].split("\t")[1]).read_bytes() == images[0].read_bytes()


# ---------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("model", MODELS)
def test_eval_attributes(run: Run, things: Path, classifier: Path, model: str) -> None:
    words = ("--model", model, "--corpus", things / "corpus", "--classifier", classifier, "-n", 1, "--json")
    found = json.loads(run("eval attributes", *words, "--sheet", "sheet.png", *SMALL[model], *QUICK))
    assert found["facts"]["model"] == model
    assert set(found["accuracy"]) == {"real", "reconstructed", "zh", "en"}
    assert Path("sheet.png").is_file() and len(list(Path("runs").rglob("*.png"))) == 2


@pytest.mark.parametrize("model", MODELS)
def test_eval_best_of(run: Run, things: Path, classifier: Path, model: str) -> None:
    """In one language, though the classifier's attributes are stated in two."""
    words = ("--model", model, "--corpus", things / "corpus", "--classifier", classifier, "-n", 1, "--json")
    found = json.loads(run("eval best-of", *words, "--sizes", "1,2", "--languages", "zh", *QUICK))
    assert found["facts"]["model"] == model
    assert found["losses"]["zh best of 2"] <= found["losses"]["zh best of 1"]


@pytest.mark.parametrize("model", MODELS)
def test_eval_captions_and_order(run: Run, things: Path, model: str) -> None:
    words = ("--corpus", things / "corpus", "-n", 1, "--rare", 2, "--beams", 1, "--languages", "zh")
    found = json.loads(run("eval captions", "--model", model, *words, "--json"))
    assert found["facts"]["model"] == model and list(found["matching"]) == ["zh"]
    order = json.loads(run("eval order", APPLE, "--model", model, "-n", 2, *QUICK, "--json"))
    losses = [one["loss"] for one in order["order"]]
    assert order["facts"]["model"] == model and losses == sorted(losses) and len(losses) == 2
    with Image.open("order.png") as sheet:
        assert sheet.width == 2 * (72 + 4) + 4  # both draw 72 pixels a side before they are ranked


def test_eval_alignment(run: Run, things: Path) -> None:
    data = ("--data", things / "corpus")
    tiny = ("--size", 16, "--batch", 4, "--limit", 8, "--epochs", 1)
    for model in MODELS:
        run("eval train-scorer", *data, "--out", model, "--model", model, *tiny)
    both = [word for model in MODELS for word in ("--model", model)]
    words = ("--split", "test_comp", "-n", 2, "--languages", "en", "--json", *SMALL[TWO], *QUICK)
    sets = json.loads(run("eval alignment", "--scorer", TWO, *data, *both, *words))["sets"]
    drawn = {f"{model} en{end}" for model in MODELS for end in ("", ", shuffled")}
    assert drawn | {"real en"} <= set(sets) and {own["pictures"] for own in sets.values()} == {2}


def test_eval_editing(run: Run, things: Path, classifier: Path) -> None:
    words = (things / "edits", "--classifier", classifier, "--model", TWO, "--json", *QUICK)
    found = json.loads(run("eval editing", *words))
    assert found["facts"]["model"] == TWO and found["untouched"] == {"right": 1, "stated": 1}


def test_eval_fairness_and_speed(run: Run, things: Path, classifier: Path) -> None:
    """Whole pictures, so by the quicker model; the other draws one above."""
    words = (things / "audit.yaml", "--classifier", classifier, "-n", 1, "--model", ONE, "--json", *QUICK)
    found = json.loads(run("eval fairness", *words))
    assert found["facts"]["model"] == ONE and found["readings"]["blots"]["as asked"]["pictures"] == 1
    speed = json.loads(run("eval speed", "--model", ONE, "--batches", 1, "--repeats", 1, "--json"))
    assert (speed["model"], speed["tokens"], speed["timings"][0]["pictures"]) == (ONE, 144, 1)


# ------------------------------------------------------------------------------- looking inside, the rest


def test_inspect_attention(run: Run) -> None:
    printed = run("inspect attention", APPLE, "--model", TWO, "--word", "red", "-o", "look")
    assert f"{layers_of(TWO, 'base')} layers" in printed and list(Path("look").glob("*.html"))


@pytest.mark.parametrize(("model", "role"), [(ONE, "caption"), (TWO, "base")])
def test_inspect_stability(run: Run, model: str, role: str) -> None:
    rows = json.loads(run("inspect stability", "--model", model, "--role", role, "--prompt", APPLE, "--json"))
    assert [row["layer"] for row in rows] == list(range(layers_of(model, role)))
    assert all(row["headroom"] > 0 for row in rows)


def layers_of(model: str, role: str) -> int:
    return int(json.loads((PACKAGED / model / role / "config.json").read_text())["layers"])


def test_models_doctor_and_report(run: Run) -> None:
    entries = {entry["name"]: entry for entry in json.loads(run("models", "--json"))}
    for model in MODELS:
        family = ModelBundle.find(model)
        assert entries[model]["hash"] == family.hash == model_hash(PACKAGED / model)
        assert set(entries[model]["roles"]) == set(family.config.roles)
    assert all(model in run("models") for model in MODELS)
    assert not [entry for entry in json.loads(run("doctor", "--json"))["models"] if "error" in entry]
    run("report", *(PACKAGED / model for model in MODELS), "-o", "page.html")
    page = Path("page.html").read_text()
    assert all(f"<h2>model {model}</h2>" in page for model in MODELS)


def test_serve_reads_both(run: Run) -> None:
    pytest.importorskip("fastapi")
    lines = run("serve", "--check", "--port", 0).splitlines()
    assert [line.split()[0] for line in lines] == ["studio", "api"]


@pytest.mark.parametrize("model", MODELS)
def test_data_are_built_for_finetuning(run: Run, things: Path, model: str) -> None:
    run("data build", things / "pictures", "shards", "--tokenizers", model, "--validation", 0, "--workers", 0)
    [index] = Path("shards").rglob("index.json")
    assert ModelBundle.find(ONE).config.fingerprints.image_tokenizer in index.read_text()


# ------------------------------------------------------------------------------------------ refusals

NO_ROLE = (
    r"the model {model} has no '{role}' role; it has {there}; .*or a model with '{role}' \(`cogview models`"
)


@pytest.mark.parametrize(
    ("model", "role", "words"),
    [
        (TWO, "caption", ("inspect stability", "--role", "caption")),
        (ONE, "direct", ("inspect stability", "--role", "direct")),
        (ONE, "iterative", ("inspect stability", "--role", "iterative")),
    ],
)
def test_a_role_that_is_missing(
    refuse: Run, things: Path, model: str, role: str, words: tuple[str, ...]
) -> None:
    verb, *more = (str(things / word) if word.endswith(".png") else word for word in words)
    said = refuse(verb, *more, "--model", model)
    there = ", ".join(ModelBundle.find(model).config.roles)
    assert re.search(NO_ROLE.format(model=model, role=role, there=there), said)


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        (TWO, ("upscale", "tiny.png"), "cannot upscale images; take --model pictogram$"),
        (TWO, ("generate", APPLE, "--upscale", "2"), "cannot upscale images; take --model pictogram$"),
        (ONE, ("edit", "small.png", APPLE, "--box", "0,0,9,9"), "cannot edit .*; take --model pictogram-2$"),
        (ONE, ("edit", "small.png", "--vary", "0.5"), "cannot edit images; take --model pictogram-2$"),
        (
            ONE,
            ("eval editing", "edits", "--classifier", "classifier"),
            "cannot edit images; take --model pictogram-2$",
        ),
        (ONE, ("generate", APPLE, "--first-stage-only"), "pictogram generates in one step; leave out --fir"),
        (ONE, ("generate", APPLE, "--clusters", "3"), "no clusters of image codes; use clusters 0$"),
        (ONE, ("generate", APPLE, "--upscale", "3"), "this model upscales 2 or 4 times$"),
        (TWO, ("generate", APPLE, "--sparse", "64,4,64"), "not support sparse attention; leave out sparse$"),
        (TWO, ("generate", APPLE, "--lora", "adapter"), "lora.json: base: missing$"),
        (ONE, ("generate", APPLE, "--lora", "nothing"), "no adapter 'nothing': give the directory of a run"),
        (TWO, ("generate", "apple " * 65), r"the model reads \d+; shorten it$"),
        (ONE, ("generate", "apple " * 65), r"the model reads \d+; shorten it$"),
    ],
)
def test_what_a_model_cannot(
    refuse: Run, things: Path, classifier: Path, model: str, words: tuple[str, ...], says: str
) -> None:
    (things / "adapter").mkdir(exist_ok=True)
    (things / "adapter" / "lora.json").write_text("{}")
    names = {path.name for path in things.iterdir()}
    verb, *more = (str(things / word) if word in names else word for word in words)
    assert re.search(says, refuse(verb, *more, "--model", model).strip())


@pytest.mark.parametrize("model", MODELS)
def test_export_asks_for_whole_weights(refuse: Run, model: str) -> None:
    """Both are stored small; a family of float weights is exported in tests/importers."""
    said = refuse("export cogview", model, "-o", "checkpoint")
    assert "use the float weights, from a run or a family assembled without --small" in said


# --------------------------------------------------------------------------------------- completeness


def commands(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    """Every command below ``command`` and the names of its parameters."""
    if not hasattr(command, "commands"):
        yield name, {parameter.name for parameter in command.params}
        return
    for word, own in command.commands.items():
        yield from commands(own, f"{name} {word}")


def test_no_command_that_takes_a_model_is_forgotten() -> None:
    """By its parameters' names. Tiny families do elsewhere what is slow or needs data of its own."""
    asked = [entry for verb in VERBS for entry in commands(load(verb), verb.name)]
    taking = {name for name, own in asked if own & {"model", "models", "family", "tokenizers"}}
    source = Path(__file__).read_text(encoding="utf-8")
    here = {name for name in taking if re.search(rf'(run|refuse)\(\s*"{name}"', source)}
    elsewhere = {"data convert", "eval coco", "eval scenes", "eval things", "eval upscaling", "study create"}
    elsewhere |= {"mcp", "export onnx", "page"}  # tests/serving/test_mcp.py, tests/onnx, tests/page
    assert taking - here == elsewhere
