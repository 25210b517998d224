"""Count what the house is measured by: lines, files a prompt passes, circles, names, wide functions.

``python tools/counts.py [ROOT] [--all]`` prints a table, with ``--all`` the files by name as well; ``ROOT``
is a checkout (default: this one). The files that a prompt passes are traced at run time, from the command to
the file and from ``model.generate(prompt)`` of a model in memory to the PNG file: each runs twice in one
process and the functions of the second run count, so imports do not.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PIPELINES = {
    "CogView", "CogView2", "Hierarchy", "CogViewPipeline", "CogView2Pipeline",
    "SequenceFormat", "CogLMFormat", "DirectFormat", "IterativeFormat",
}  # fmt: skip
WIDE = 8
TRACE = """
import sys, types
from pathlib import Path
root, model, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, str(root / "src"))
from cogview.cli.app import main
files = set()
def seen(frame, event, arg):
    if event == "call" and frame.f_code.co_name != "<module>" and frame.f_code.co_flags & 2:
        if frame.f_code.co_filename.startswith(str(root / "src/cogview")):
            files.add(frame.f_code.co_filename)
how = sys.argv[-1]
def once():
    sys.argv = ["cogview", "generate", "a red apple", "--model", model, "--seed", "7", "-o", out]
    try:
        main()
    except SystemExit:
        pass
if how != "loaded":
    run = once
else:
    from cogview import CogView
    loaded = CogView.from_pretrained(model)
    run = lambda: [image.png() for image in loaded.generate("a red apple", seed=7)]
run()
sys.setprofile(seen)
run()
sys.setprofile(None)
print("\\n".join(sorted(str(Path(f).relative_to(root / "src/cogview")) for f in files)), file=sys.stderr)
"""


def sources(root: Path) -> dict[Path, ast.Module]:
    package = root / "src/cogview"
    found = sorted(package.rglob("*.py"))
    return {path.relative_to(package): ast.parse(path.read_text(encoding="utf-8")) for path in found}


def lines(root: Path, under: str = "") -> int:
    found = (root / "src/cogview" / under).rglob("*.py")
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in found)


def files_passed(root: Path, model: str, how: str) -> list[str]:
    """``how``: ``command`` from the command line to the file, ``loaded`` by a model in memory."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", TRACE, str(root.resolve()), model, out, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stderr.splitlines() if line.endswith(".py")]


def imports(path: Path, tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, inside functions too, but not for types alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cogview"):
            for name in node.names:
                deep = f"{node.module}.{name.name}"
                found.add(deep if deep in known else node.module)
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names if name.name.startswith("cogview"))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found & known


def module(path: Path) -> str:
    parts = ["cogview", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(trees: dict[Path, ast.Module]) -> list[list[str]]:
    """Sets of files that import each other (strongly connected components of more than one file)."""
    known = {module(path) for path in trees}
    arrows = {module(path): imports(path, tree, known) for path, tree in trees.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def connect(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in arrows[name]:
            if other not in index:
                connect(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            place = stack.index(name)
            part, stack[place:] = stack[place:], []
            if len(part) > 1:
                found.append(sorted(part))

    for name in arrows:
        if name not in index:
            connect(name)
    return found


def type_checks(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """``isinstance`` on a pipeline or a sequence format."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "isinstance"
            ):
                names = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                if names & PIPELINES:
                    yield f"{path}:{node.lineno}"


def wide(trees: dict[Path, ast.Module]) -> int:
    functions = (n for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.FunctionDef))
    counts = (len(f.args.args) + len(f.args.kwonlyargs) + len(f.args.posonlyargs) for f in functions)
    return sum(count > WIDE for count in counts)


def main() -> None:
    given = [word for word in sys.argv[1:] if word != "--all"]
    root = Path(given[0] if given else Path(__file__).parent.parent)
    trees = sources(root)
    names = Counter(path.name for path in trees if path.name != "__init__.py")
    ways = [(model, how) for how in ("command", "loaded") for model in ("pictogram", "pictogram-2")]
    passed = {f"{model}, {how}": files_passed(root, model, how) for model, how in ways}
    checks, found = list(type_checks(trees)), circles(trees)
    table = {
        "files in src": len(trees),
        "lines in src": lines(root),
        "lines in cli": lines(root, "cli"),
        **{f"files a prompt passes, {way}": len(files) for way, files in passed.items()},
        "circles of files": len(found),
        "file names that stand more than once": sum(count > 1 for count in names.values()),
        "isinstance on pipelines or formats": len(checks),
        f"functions with more than {WIDE} parameters": wide(trees),
    }
    for name, value in table.items():
        print(f"{name:45} {value:>7,}")
    if "--all" in sys.argv:
        print(json.dumps({"passed": passed, "circles": found, "isinstance": checks}, indent=2))


if __name__ == "__main__":
    main()
