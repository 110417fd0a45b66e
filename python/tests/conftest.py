"""What the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

import lora_asymptotics

#: The repository, whose data the tests read.
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def linear() -> dict[str, object]:
    """A scenario that is solved in microseconds."""
    return {
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.1},
    }


@pytest.fixture
def finetuning() -> dict[str, object]:
    """A fine-tuning on top of frozen weights that are given."""
    return {
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5},
        "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
        "lora": {"alpha": 3.0, "lambda": 0.5},
        "options": {"log2_nodes": 9},
    }


@pytest.fixture
def slow() -> dict[str, object]:
    """A scenario whose solve takes much longer than a test."""
    return {
        "model": {"tokens": 6, "activation": "sigmoid", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.02},
        "options": {"log2_nodes": 15, "scrambles": 8, "tolerance": 1e-9},
    }


def pytest_sessionstart() -> None:
    installed = Path(lora_asymptotics.__file__)
    if ROOT / "python" in installed.parents:
        pytest.exit(f"{installed} is the source: test the installed package", returncode=1)
