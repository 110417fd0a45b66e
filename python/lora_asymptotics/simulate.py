"""The network itself at finite size, trained beside the theory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _native
from .errors import unreadable
from .outcome import Outcome
from .records import Record
from .schema import ScenarioLike, request, text, threads_checked
from .solving import Progress, reporter, native

if TYPE_CHECKING:
    import pandas

__all__ = ["Comparison", "compare"]


class Estimate(Record):
    """A mean and its standard error."""

    mean: float
    std_error: float


class AtSize(Record):
    """An observable at one dimension."""

    dimension: int
    instances: int
    mean: float
    std_error: float


class Row(Record):
    """One observable: the theory, the simulation extrapolated to infinite dimension, and their difference in standard errors."""

    stage: str
    observable: str
    theory: Estimate
    simulation: Estimate
    z: float
    sizes: list[AtSize]


class Comparison(Record):
    """Theory and simulation side by side."""

    rows: list[Row]
    #: Number of trainings that ended before their gradient was below the tolerance.
    unconverged: int
    #: The prediction.
    outcome: Outcome

    def row(self, stage: str, observable: str) -> Row:
        """The row of an observable (``"lora"``, ``"alignment"``); ``KeyError`` if there is none."""
        for row in self.rows:
            if (row.stage, row.observable) == (stage, observable):
                return row
        raise KeyError((stage, observable))

    @property
    def rms_z(self) -> float:
        """Root mean square of ``z`` over the rows that have one; observables of the same networks are correlated."""
        scores = np.array([row.z for row in self.rows])
        return float(np.sqrt(np.mean(scores[np.isfinite(scores)] ** 2)))

    def columns(self) -> dict[str, NDArray[Any]]:
        """The rows as columns."""
        return {
            "stage": np.array([row.stage for row in self.rows], dtype=object),
            "observable": np.array([row.observable for row in self.rows], dtype=object),
            "theory": np.array([row.theory.mean for row in self.rows]),
            "theory.std_error": np.array([row.theory.std_error for row in self.rows]),
            "simulation": np.array([row.simulation.mean for row in self.rows]),
            "simulation.std_error": np.array([row.simulation.std_error for row in self.rows]),
            "z": np.array([row.z for row in self.rows]),
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a table of pandas."""
        import pandas

        return pandas.DataFrame(self.columns())

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows)} observables: root mean square of z {self.rms_z:.2f}>"

    def _repr_html_(self) -> str:
        head = "<tr><th>stage</th><th>observable</th><th>theory</th><th>simulation</th><th>z</th></tr>"
        lines = []
        for row in self.rows:
            colour = "#b3261e" if abs(row.z) > 4 else "inherit"
            simulation = f"{row.simulation.mean:.5g} &plusmn; {row.simulation.std_error:.1g}"
            lines.append(
                f"<tr><td>{escape(row.stage)}</td><td>{escape(row.observable)}</td><td>{row.theory.mean:.5g}</td>"
                f'<td>{simulation}</td><td style="color:{colour}">{row.z:.1f}</td></tr>'
            )
        return f"<table>{head}{''.join(lines)}</table>"


def compare(
    scenario: ScenarioLike | None = None,
    sizes: Mapping[int, int] | None = None,
    *,
    seed: int | None = None,
    frozen_logits: Literal["trained", "synthetic"] | None = None,
    test_sequences: int | None = None,
    pretraining_starts: int | None = None,
    random_starts: int | None = None,
    gradient_tolerance: float | None = None,
    max_iterations: int | None = None,
    order: int | None = None,
    memory_limit: int | None = None,
    threads: int | None = None,
    progress: Progress = None,
    **fields: Any,
) -> Comparison:
    """Solves a scenario, trains networks of finite size, and compares the two.

    ``sizes`` are dimensions ``D`` with their numbers of instances, ``{60: 16, 120: 16}``; several sizes are extrapolated.
    ``frozen_logits="synthetic"`` draws the logits of the frozen weights from their law, so that only fine-tuning is trained. The other
    keywords are those of ``Laboratory`` in the Rust documentation; what is not given has its default.

    Corrections are ``O(1/D)`` in pre-training and ``O(D^{-1/2})`` in fine-tuning on trained weights. Ctrl-C raises
    ``KeyboardInterrupt`` within a second. Raises :class:`~lora_asymptotics.errors.InputError`, and
    :class:`~lora_asymptotics.errors.NotConverged` if there is no prediction.
    """
    given: dict[str, Any] = {
        "seed": seed,
        "frozen": frozen_logits,
        "test_sequences": test_sequences,
        "pretraining_starts": pretraining_starts,
        "random_starts": random_starts,
        "gradient_tolerance": gradient_tolerance,
        "max_iterations": max_iterations,
        "order": order,
        "memory_limit": memory_limit,
    }
    laboratory = {name: value for name, value in given.items() if value is not None}
    total = 16
    if sizes is not None:
        if not isinstance(sizes, Mapping):
            raise unreadable("sizes", sizes, "a mapping from dimensions to numbers of instances")
        laboratory["sizes"] = [
            {"dimension": dimension, "instances": instances} for dimension, instances in sizes.items()
        ]
        total = sum(count for count in sizes.values() if isinstance(count, int))
    with reporter(progress, total) as report:
        compared, outcome = _native.compare(
            native(request(scenario, fields)), text(laboratory), threads_checked(threads), report
        )
    return Comparison({**json.loads(compared), "outcome": json.loads(outcome)})
