"""What a release is made of: the wheel and the sdist, looked into, and the manual pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import cogview
from cogview.cli.app import VERBS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist of a copy of the repository, built as `make dist` does, without the models' weights."""
    copy = tmp_path_factory.mktemp("dist") / "copy"
    left_out = shutil.ignore_patterns(
        ".git", "*.safetensors", ".venv*", "build", "dist", "runs", "fixtures", "out"
    )
    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    for command in (
        ["tools/man_pages.py", "build/man"],
        ["-m", "build", "--no-isolation", "--outdir", "dist"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=copy, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return copy / "dist"


def test_the_index_would_take_them(dist: Path) -> None:
    files = [str(path) for path in dist.iterdir()]
    assert sorted(path.suffix for path in dist.iterdir()) == [".gz", ".whl"]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_wheel_holds_package_and_manual(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    own = {name for name in names if name.startswith("cogview/")}
    there = {
        f"cogview/{path.relative_to(ROOT / 'src' / 'cogview')}"
        for path in (ROOT / "src" / "cogview").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".safetensors") and "__pycache__" not in path.parts
    }
    assert own == there
    manual = {Path(name).stem for name in names if "/share/man/man1/" in name}
    assert {f"cogview-{verb.name}" for verb in VERBS} | {"cogview", "cogview-eval-things"} <= manual


def test_the_sdist_holds_what_the_readme_names(dist: Path) -> None:
    [archive] = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    text = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"\]\(([^)#\s:]+)[)#]", text)) - {"Makefile"}

    def there(link: str) -> bool:
        return link in names or any(name.startswith(link.rstrip("/") + "/") for name in names)

    missing = [link for link in named if not link.startswith(("tests", "benchmarks")) and not there(link)]
    assert len(named) > 20 and not missing


def test_manual_pages_say_what_the_help_says(dist: Path) -> None:
    pages = dist.parent / "build" / "man"
    text = (pages / "cogview-generate.1").read_text("utf-8")
    assert text.startswith('.TH "COGVIEW-GENERATE" "1"') and f"cogview {cogview.__version__}" in text
    assert "\\-\\-seed" in text and "\\-\\-best\\-of" in text
    if groff := shutil.which("groff"):
        for page in pages.iterdir():
            said = subprocess.run(
                [groff, "-man", "-Tutf8", "-ww", "-z", "-k", str(page)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert not said.stderr, (page.name, said.stderr)


@pytest.mark.parametrize("name", ["test", "release"])
def test_workflows_run_what_there_is(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for command in re.findall(r"^\s*- run: make (\S+)", text, re.MULTILINE):
        assert command in targets
    assert ".ci/run" not in text or (ROOT / ".ci" / "run").is_file()


def test_completion_knows_the_verbs() -> None:
    code = "from cogview.cli.app import main; main()"
    environment = {"_COGVIEW_COMPLETE": "complete_bash", "COMP_WORDS": "cogview ge", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**environment, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.stdout.split() == ["generate"], done.stderr
