"""The spectrum of the learned weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native
from .errors import unreadable
from .records import Record
from .schema import ScenarioLike, request, threads_checked, whole
from .solving import native

__all__ = ["LearnedSpectrum", "learned_spectrum"]


class Component(Record):
    """An interval of positive learned eigenvalues; ``outlier`` if it stands out of the noise above the bulk."""

    low: float
    high: float
    weight: float
    outlier: bool


class LearnedSpectrum:
    """The law of the eigenvalues of ``s-hat = S-hat/sqrt(D)`` (cross-attention: of its singular values).

    It has an atom at 0, of weight ``atom``, and a density that integrates to ``rank_fraction = 1 - atom``.
    """

    #: Fraction of eigenvalues that are exactly 0.
    atom: float
    #: Fraction of positive eigenvalues.
    rank_fraction: float
    #: Intervals of the positive eigenvalues, in increasing order.
    components: list[Component]
    #: Eigenvalues from edge to edge of every component, shape ``(n,)``.
    eigenvalues: NDArray[np.float64]
    #: Density at these eigenvalues, of the same shape.
    density: NDArray[np.float64]

    def __init__(self, law: Any, points: int) -> None:
        self._law = law
        table = json.loads(law.table(points))
        self.atom = table["atom"]
        self.rank_fraction = table["rank_fraction"]
        self.components = [Component(component) for component in table["components"]]
        self.eigenvalues = np.array(table["eigenvalues"], dtype=np.float64)
        self.density = np.array(table["density"], dtype=np.float64)

    def density_at(self, eigenvalues: ArrayLike) -> NDArray[np.float64]:
        """Density of positive eigenvalues at an array of any shape; 0 where they are not positive."""
        return _along(self._law.density, eigenvalues)

    def distribution(self, eigenvalues: ArrayLike) -> NDArray[np.float64]:
        """Fraction of eigenvalues up to and including those of an array of any shape."""
        return _along(self._law.distribution, eigenvalues)

    def quantile(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """Smallest eigenvalue that at least a fraction of all does not exceed, for an array of fractions in ``[0, 1]``."""
        return _along(self._law.quantile, probabilities)

    def __repr__(self) -> str:
        return f"<LearnedSpectrum: atom {self.atom:.6g}, {len(self.components)} components>"


def _along(function: Callable[[bytes], bytearray], arguments: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(arguments, dtype=np.float64)
    except (TypeError, ValueError):
        raise unreadable("", arguments, "an array of numbers") from None
    # Between the parts, Ctrl-C is heard.
    flat = array.ravel()
    parts = [function(flat[first : first + 4096].tobytes()) for first in range(0, len(flat), 4096)]
    return np.frombuffer(bytearray().join(parts)).reshape(array.shape)


def learned_spectrum(
    scenario: ScenarioLike | None = None, *, points: int = 400, threads: int | None = None, **fields: Any
) -> LearnedSpectrum:
    """Solves the pre-training of a scenario, and returns the law of the learned eigenvalues.

    ``s-hat = (Y - 2 lambda sqrt(kappa))_+/Vhat`` with ``Y = Mhat s* + sqrt(Qhat) Z``. The density is tabulated on about ``points``
    points. Raises :class:`~lora_asymptotics.errors.InputError`, and :class:`~lora_asymptotics.errors.NotConverged`.
    """
    points = whole(points, "points", 1, 10**7)
    return LearnedSpectrum(_native.LearnedSpectrum(native(request(scenario, fields)), threads_checked(threads)), points)
