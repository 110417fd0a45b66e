"""The Bayes-optimal bound of fine-tuning as a function of the number of sequences."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native
from .outcome import LoraBound
from .schema import ScenarioLike, number, plain, request, threads_checked, whole
from .solving import native
from .thresholds import Threshold

__all__ = ["BayesCurve"]


class BayesCurve:
    """The curve ``G(q)`` of a scenario with a fine-tuning, tabulated once and solved for any ``alpha'``.

    The bound is that of any algorithm that sees the frozen weights through their logits only. ``lora.alpha`` and the ridges of
    the scenario are not used. Raises :class:`~lora_asymptotics.errors.InputError`, among others for an activation that is not invertible.
    """

    def __init__(self, scenario: ScenarioLike | None = None, *, threads: int | None = None, **fields: Any) -> None:
        self._curve = _native.BayesCurve(native(request(scenario, fields)), threads_checked(threads))

    def solve(self, alpha: float) -> LoraBound:
        """Both branches at ``alpha' D`` sequences."""
        return LoraBound(json.loads(self._curve.solve([number(alpha, "lora.alpha")])[0]))

    def __call__(self, alphas: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """The bound along an array of ``alpha'``: alignment, errors and overlap of what message passing reaches, in arrays of its length."""
        points = np.atleast_1d(np.asarray(plain(np.asarray(alphas, dtype=np.float64), "lora.alpha")))
        bounds = [LoraBound(json.loads(text)) for text in self._curve.solve(points.tolist())]
        columns = {
            "lora.alpha": list(points),
            "alignment": [bound.alignment for bound in bounds],
            "q": [bound.order.q for bound in bounds],
            "errors.test": [bound.errors.test for bound in bounds],
            "errors.test_clean": [bound.errors.test_clean for bound in bounds],
            "information_theoretic.alignment": [bound.branches.information_theoretic.alignment for bound in bounds],
            "information_theoretic.errors.test": [bound.branches.information_theoretic.errors.test for bound in bounds],
        }
        return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}

    @property
    def weak_recovery(self) -> Threshold:
        """``alpha'_c``, where ``q = 0`` loses stability: ``1/alpha'_c = E|E[chi chi^T | Y] - I|^2`` at ``q = 0``."""
        return Threshold(json.loads(self._curve.weak_recovery()))

    @property
    def spinodals(self) -> tuple[float, float] | None:
        """The range of ``alpha'`` in which two stable fixed points coexist, if there is one."""
        range_of_both, _ = self._curve.coexistence()
        return None if range_of_both is None else (range_of_both[0], range_of_both[1])

    @property
    def information_theoretic_jump(self) -> float | None:
        """The ``alpha'`` at which the free energies of the coexisting fixed points are equal."""
        return self._curve.coexistence()[1]

    def state_evolution(self, alpha: float, start: float, steps: int) -> NDArray[np.float64]:
        """``q`` before the first and after each of ``steps`` iterations of message passing, from the overlap ``start``."""
        return np.array(self._curve.state_evolution(number(alpha, "lora.alpha"), number(start, "start"), whole(steps, "steps", 0, 10**6)))


