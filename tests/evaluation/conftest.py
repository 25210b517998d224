"""The toy corpus and a reader trained on it, once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.judges.classifier_training import ClassifierTraining, train_from_corpus
from tests.evaluation import toy
from tests.evaluation.squares import write_network, write_squares

TRAINING = ClassifierTraining(epochs=8, batch=16, rate=8e-3)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy"), toy.rows())


@pytest.fixture(scope="session")
def reader(corpus: Path) -> AttributeClassifier:
    return train_from_corpus(corpus, TRAINING, size=toy.SIZE, rare=8)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers for a test, whichever ran before it."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled picture cache of coloured squares."""
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of EfficientNet-Lite0 that nobody trained."""
    return write_network(tmp_path_factory.mktemp("network") / "lite0.safetensors")
