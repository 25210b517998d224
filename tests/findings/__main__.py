"""Run the tests of every finding: ``python -m tests.findings [NAME ...] [--out FILE]``.

``record.yaml`` maps what was once found wrong to the tests that hold it. The exit code is pytest's; ``--out``
keeps how many tests of each finding passed, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

RECORD = Path(__file__).parent / "record.yaml"
ROOT = Path(__file__).parents[2]


def node_ids(finding: str) -> list[str]:
    """The tests of a finding, as pytest names them from the repository's root."""
    record = yaml.safe_load(RECORD.read_text(encoding="utf-8"))
    return [f"tests/{name}" for name in record[finding]["tests"]]


class Outcomes:
    """A plugin of pytest that counts how the runs of each test function ended."""

    def __init__(self) -> None:
        self.by_test: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            node = report.nodeid.partition("[")[0]
            self.by_test.setdefault(node, Counter())[report.outcome] += 1

    def of(self, finding: str) -> dict[str, int]:
        """How many runs of a finding's tests ended how."""
        return dict(sum((self.by_test.get(node, Counter()) for node in node_ids(finding)), Counter()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    names = list(yaml.safe_load(RECORD.read_text(encoding="utf-8")))
    parser.add_argument("findings", nargs="*", default=names, metavar="NAME")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if unknown := set(asked.findings) - set(names):
        parser.error(f"no finding {min(unknown)}; there are {', '.join(names)}")
    outcomes = Outcomes()
    nodes = list(dict.fromkeys(node for name in asked.findings for node in node_ids(name)))
    code = pytest.main(["-q", f"--rootdir={ROOT}", *(f"{ROOT / node}" for node in nodes)], plugins=[outcomes])
    found = {name: outcomes.of(name) for name in asked.findings}
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
