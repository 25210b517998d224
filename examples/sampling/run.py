"""Cluster sampling against top-k, and emphasis on the text (CogView2, sections 4.1 and 4.2): a table.

    python examples/sampling/run.py --model pictogram-2 --corpus corpus --classifier classifier \\
        --extractor lite0.safetensors --n 100

Every setting draws the same held-out captions twice, with other seeds. A row tells how many stated attributes
a classifier finds, KID to real held-out pictures, and *diversity*: how far the two pictures of a caption lie
apart, on the average, in the extractor's features, relative to two real pictures of the same style (if these
differ). ``--temperature 1.15 --guidance 1`` is the paper's setting. Cutting harder raises accuracy and lowers
diversity, so that top-k and clusters are compared where diversity is equal: top-k's figures are interpolated
at that of each row of clusters. Pictures are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogview.data.shards import Preprocessing
from cogview.evaluation.experiments.attributes import (
    AttributePlan,
    read_answers,
    real_images,
)
from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.evaluation.judges.attribute_corpus import Avatar, read_avatars, select
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.fid import DistributionPlan, Extractor, kid, open_extractor
from cogview.evaluation.sample_store import generate_images, load_all

Row = dict[str, Any]
Features = NDArray[np.float32]
OFF = {"top_k": 0, "clusters": 0, "emphasis": 0.0}
TWICE = 1_000_003  # between the seeds of a caption's two pictures


def settings_of(top_k: Sequence[int], clusters: Sequence[int], emphasis: Sequence[float]) -> dict[str, Row]:
    """Name to sampling settings of every row."""
    rows: dict[str, Row] = {f"top-k {k}" if k else "all codes": OFF | {"top_k": k} for k in top_k}
    rows |= {f"clusters {k}": OFF | {"clusters": k} for k in clusters}
    return rows | {f"emphasis {c:g}": {"emphasis": c} for c in emphasis}


def spread(first: Features, second: Features) -> float:
    """Mean distance between rows."""
    return float(np.linalg.norm(first - second, axis=1).mean())


def real_spread(features: Features, styles: Sequence[str]) -> float:
    """Mean distance of a real picture to the next one of its style."""
    gaps = []
    for style in sorted(set(styles)):
        own = features[[i for i, name in enumerate(styles) if name == style]]
        if len(own) > 1:
            gaps.append(np.linalg.norm(own - np.roll(own, 1, axis=0), axis=1))
    return float(np.concatenate(gaps).mean())


def at_equal_diversity(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Of each row of clusters: top-k's accuracy and KID where it is as diverse, None outside its range."""
    known = sorted(
        (row for name, row in rows.items() if name.startswith(("top-k", "all"))), key=lambda r: r["diversity"]
    )
    x = [row["diversity"] for row in known]
    found = {}
    for name, row in rows.items():
        if name.startswith("clusters"):
            inside = bool(x) and x[0] <= row["diversity"] <= x[-1]
            figures = ("accuracy", "kid")
            found[name] = {
                figure: float(np.interp(row["diversity"], x, [r[figure] for r in known])) if inside else None
                for figure in figures
            }
    return found


class Experiment:
    """What all rows have in common."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.reader = AttributeClassifier.from_directory(given.classifier)
        self.extractor: Extractor = open_extractor(given.extractor)
        self.drawer = ModelGenerator(given.model, given.precision, small=True)
        common = {"temperature": given.temperature, "guidance": given.guidance}
        self.common = {name: value for name, value in common.items() if value is not None}
        self.plan = AttributePlan(count=given.n, batch=given.batch, seed=given.seed, languages=("zh", "en"))
        avatars = read_avatars(given.corpus)
        chosen = select(avatars, self.reader.config.attributes, given.n, given.seed, "test_comp")
        known = {avatar.key: avatar for avatar in avatars}
        self.chosen: list[Avatar] = [known[key] for key in chosen.keys]
        self.real = self.features(
            real_images(given.corpus, self.chosen, Preprocessing(size=self.extractor.size))
        )

    def features(self, pictures: NDArray[np.uint8]) -> Features:
        """(n, d) of pictures at the extractor's size."""
        parts = [self.extractor(pictures[i : i + 32])[0] for i in range(0, len(pictures), 32)]
        return np.concatenate(parts)

    def row(self, name: str, sampling: Mapping[str, Any]) -> Row:
        """Draw, read and measure one setting; languages take turns."""
        answers, features = [], []
        for turn in range(2):
            settings = {**self.common, **sampling}
            plan = self.plan.model_copy(update={"sampling": settings, "seed": self.plan.seed + turn * TWICE})
            language = self.plan.languages[turn]
            texts = [avatar.captions[language] for avatar in self.chosen]
            paths = generate_images(texts, self.drawer, self.given.work, plan)
            assert paths is not None  # one process draws them all
            read = read_answers(self.reader, self.chosen, load_all(paths, self.reader.config.preprocessing))
            answers.append(read.counts)
            own = Preprocessing(size=self.extractor.size)
            features.append(self.features(load_all(paths, own)))
        right, stated = (sum(float(counts[i].sum()) for counts in answers) for i in (0, 1))
        scale = real_spread(self.real, [avatar.style for avatar in self.chosen]) or 1.0
        return {
            "accuracy": right / max(1, stated),
            "kid": kid(self.real, np.concatenate(features), DistributionPlan(bootstrap=0)).value,
            "diversity": spread(*features) / scale,
        }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pictogram-2")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--extractor", type=Path, required=True, help="what cogview import lite0 wrote")
    parser.add_argument("--n", type=int, default=100, help="captions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--precision", default="int8", choices=["fp32", "bf16", "fp16", "int8"])
    parser.add_argument("--top-k", type=int, nargs="*", default=[10, 50, 200, 0])
    parser.add_argument("--clusters", type=int, nargs="*", default=[4, 16, 64])
    parser.add_argument("--emphasis", type=float, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--temperature", type=float, help="of every row; default: the model's")
    parser.add_argument("--guidance", type=float, help="of every row; default: the model's")
    parser.add_argument("--work", type=Path, default=Path("runs/sampling"))
    parser.add_argument("--out", type=Path, default=Path("sampling.json"))
    return parser.parse_args()


def main() -> None:
    """Measure every row and print the table."""
    given = arguments()
    experiment, rows = Experiment(given), dict[str, Row]()
    for name, sampling in settings_of(given.top_k, given.clusters, given.emphasis).items():
        rows[name] = experiment.row(name, sampling)
        figures = rows[name]
        print(
            f"{name:14} accuracy {100 * figures['accuracy']:5.1f} %  KID {figures['kid']:.4f}  "
            f"diversity {figures['diversity']:.2f}",
            flush=True,
        )
    equal = at_equal_diversity(rows)
    for name, figures in equal.items():
        if figures["accuracy"] is not None:
            print(
                f"top-k as diverse as {name}: accuracy {100 * figures['accuracy']:.1f} %, "
                f"KID {figures['kid']:.4f}"
            )
    facts = {"model": experiment.drawer.name, "fingerprint": experiment.drawer.fingerprint, "n": given.n}
    facts |= experiment.common
    given.out.write_text(json.dumps({"rows": rows, "top-k as diverse": equal, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
