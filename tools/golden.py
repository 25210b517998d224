"""Compare what two commits generate, bit for bit: ``make golden BASE=<commit>``.

BASE is checked out into a temporary worktree. ``golden_pictures.py`` runs once with each commit's library,
both with BASE's models, and what differs is printed. The exit code is 1 where anything does that
is neither in ``ON_PURPOSE`` nor named with ``--allow``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).resolve().with_name("golden_pictures.py")
MARKS = "a caption's language counts punctuation as prompts do, so scores are over a few tokens more"
ON_PURPOSE = {  # cases that differ from a1c147c, and why
    "pictogram: generate truncated": "families of one stage could not cut a prompt that is too long",
    "pictogram: caption with beams": MARKS,
    "pictogram-2: caption with beams": MARKS,
}


def results(source: Path, models: Path, out: Path, asked: argparse.Namespace) -> dict[str, str]:
    """Case to hash, computed by the library under ``source`` with the families in ``models``."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    directories = [str(models / name) for name in asked.families]
    extent = "slow" if asked.slow else "quick"
    command = [sys.executable, str(SCRIPT), str(out), extent, asked.only, *directories]
    subprocess.run(command, env=environment, check=True)
    found: dict[str, str] = json.loads(out.read_text(encoding="utf-8"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--families", nargs="+", default=["pictogram", "pictogram-2"])
    parser.add_argument("--slow", action="store_true", help="also the cases of over a minute each")
    parser.add_argument("--only", default="", help="only cases that contain this text, such as caption")
    parser.add_argument("--allow", nargs="*", default=[], help="cases that differ on purpose")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        tree = Path(folder) / "base"
        subprocess.run(
            ["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, asked.base], check=True
        )
        try:
            models = tree / "src/cogview/models"
            old = results(tree / "src", models, Path(folder) / "old.json", asked)
            new = results(ROOT / "src", models, Path(folder) / "new.json", asked)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
    differing = [case for case in {**old, **new} if old.get(case) != new.get(case)]
    allowed = {*ON_PURPOSE, *asked.allow}
    wrong = [case for case in differing if not {case, case.rpartition(" ")[0]} & allowed]
    for case in differing:
        reason = ON_PURPOSE.get(case.rpartition(" ")[0])
        why = f" (on purpose: {reason})" if reason else ""
        print(f"{case}: {old.get(case, 'absent')} -> {new.get(case, 'absent')}{why}")
    count = len({**old, **new})
    print(f"{count} results, {len(differing)} differ from {asked.base}, {len(wrong)} not on purpose")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
