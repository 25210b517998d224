"""Comparison of reports, which requires that everything but the images is equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogview.config import load_json, validate
from cogview.errors import CogViewError
from cogview.evaluation.experiments.alignment import Alignment, AlignmentReport
from cogview.evaluation.experiments.coco import CocoReport
from cogview.evaluation.metrics.accuracy import Figure
from cogview.evaluation.metrics.fid import DistributionReport, Value

Report = DistributionReport | AlignmentReport
KINDS: dict[str, type[Report]] = {"alignment": AlignmentReport, "coco": CocoReport}


def read_report(path: Path) -> Report:
    """Read a report of ``eval pictures``, ``alignment`` or ``coco``; CogViewError for anything else."""
    data = load_json(path)
    kind = data.get("kind", "pictures") if isinstance(data, dict) else "pictures"
    return validate(KINDS.get(kind, DistributionReport), data, str(path))


def read_reports(paths: Sequence[Path]) -> dict[str, Report]:
    """Read reports, by file name, and check that their manifests are equal.

    Raises:
        CogViewError: two reports are of different kinds, or their manifests differ; names the first such
            field.
    """
    reports = {str(path): read_report(path) for path in paths}
    first, *others = reports
    for other in others:
        a, b = reports[first], reports[other]
        if type(a) is not type(b):
            raise CogViewError(f"{other} and {first} cannot be compared: they are of different kinds")
        field = difference(a.manifest.model_dump(mode="json"), b.manifest.model_dump(mode="json"))
        if field:
            raise CogViewError(f"{other} and {first} cannot be compared: {field}; measure both the same way")
    return reports


def difference(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> str | None:
    """The first field in which two manifests differ, with both values; ``where`` of a set may differ."""
    for key in sorted({*a, *b}):
        left, right, name = a.get(key), b.get(key), f"{path}{key}"
        if key == "where" or left == right:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            nested = difference(left, right, f"{name}.")
            if nested:
                return nested
            continue
        return f"{name} is {right!r} in the one and {left!r} in the other"
    return None


def figures(report: Report) -> dict[str, Value]:
    """A report's figures by name."""
    if isinstance(report, DistributionReport):
        return report.figures
    sets = report.sets.items()
    return {f"{name}: {metric}": value for name, result in sets for metric, value in _metrics(result)}


def _metrics(result: Alignment) -> list[tuple[str, Value]]:
    metrics = [("R-precision", result.r_precision), ("cosine", result.cosine)]
    metrics += [(f"text@{k}", figure) for k, figure in result.text_recall.items()]
    metrics += [(f"picture@{k}", figure) for k, figure in result.picture_recall.items()]
    return [(name, _value(figure)) for name, figure in metrics]


def _value(figure: Figure) -> Value:
    return Value(value=figure.value, low=figure.low, high=figure.high)
