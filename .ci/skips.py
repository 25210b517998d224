"""Counts and lists the tests that a run skipped; ends with 1 where one is not allowed to be.

    python .ci/skips.py tests.xml .ci/skips.txt

The first file is pytest's ``--junitxml``; the second holds regular expressions over ``test: reason``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def skipped(report: Path) -> list[str]:
    """``test: reason`` of every skipped test; a module that was skipped whole has no name of a test."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        for skip in case.findall("skipped"):
            if skip.get("type") == "pytest.xfail":
                continue
            name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
            found.append(f"{name}: {skip.get('message', '')}")
    return found


def allowed(file: Path) -> list[re.Pattern[str]]:
    """The expressions of the allowed list; blank lines and comments do not count."""
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def main(report: str, listed: str) -> int:
    """Print every skip with how often it happened; 1 if one is not in the list."""
    patterns, counts = allowed(Path(listed)), Counter(skipped(Path(report)))
    wrong = [skip for skip in counts if not any(pattern.search(skip) for pattern in patterns)]
    print(f"{counts.total()} skipped, {len(wrong)} of them not allowed")
    for skip, count in sorted(counts.items()):
        print(f"  {'NOT ALLOWED' if skip in wrong else 'allowed'}  {count}  {skip}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
