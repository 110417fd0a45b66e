"""What the tests share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

import lora_asymptotics

Result = TypeVar("Result")

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


@pytest.fixture
def beside_another_thread() -> Callable[[Callable[[], Result]], tuple[Result, float, float]]:
    """Does some work, and gives its result, its time, and the longest time in which another thread could not run."""

    def measured(work: Callable[[], Result]) -> tuple[Result, float, float]:
        ticks: list[float] = []
        done = threading.Event()

        def tick() -> None:
            while not done.wait(0.005):
                ticks.append(time.monotonic())

        other = threading.Thread(target=tick)
        other.start()
        begun = time.monotonic()
        result = work()
        ended = time.monotonic()
        done.set()
        other.join()
        during = [begun, *(at for at in ticks if begun < at < ended), ended]
        return result, ended - begun, float(max(np.diff(during)))

    return measured


def pytest_sessionstart() -> None:
    installed = Path(lora_asymptotics.__file__)
    if ROOT / "python" in installed.parents:
        pytest.exit(f"{installed} is the source: test the installed package", returncode=1)
