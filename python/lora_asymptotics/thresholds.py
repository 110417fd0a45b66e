"""Critical values of a scenario.

Every function takes a scenario as :func:`lora_asymptotics.solve` does, and returns a :class:`Threshold`, or ``None`` where there is
none. Those of fine-tuning stand on the scenario's frozen weights, or on those of its pre-training, which is solved first.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from . import _native
from .errors import invalid
from .records import Record
from .schema import ScenarioLike, request, threads_checked
from .solving import native

__all__ = ["Threshold", "WeakRecoveryThreshold", "collapse", "interpolation", "perfect_recovery", "weak_recovery"]


class Threshold(Record):
    """A critical value, its standard error (``None`` where it is exact to quadrature), and how the solve for it ended."""

    value: float
    std_error: float | None
    status: str

    def __float__(self) -> float:
        return float(self.value)


class WeakRecoveryThreshold(Record):
    """``alpha'_c``, and the fixed point without overlap there, with its verdict."""

    alpha: Threshold
    at: Record

    def __float__(self) -> float:
        return float(self.alpha)


def _found(which: str, scenario: ScenarioLike | None, fields: dict[str, Any], threads: int | None) -> Any:
    return json.loads(_native.threshold(native(request(scenario, fields)), which, threads_checked(threads)))


def collapse(
    scenario: ScenarioLike | None = None,
    stage: Literal["pretrain", "lora"] = "pretrain",
    *,
    threads: int | None = None,
    **fields: Any,
) -> Threshold | None:
    """The smallest ridge at which zero weights are stable, so that training collapses to them.

    For pre-training, ``2 lambda_c sqrt(kappa)`` is the top edge of the spectrum of the input channel at ``Q = M = V = 0``. For
    fine-tuning, ``alpha' E[tr R - chi*^T R chi*/q0] = 1/v`` and ``lambda'_c = -(alpha'/2) E[chi*^T R chi*]/q0 - eta0`` with the
    curvature ``R`` of the loss; ``None`` with little data, and for linear attention. The scenario's own ridge is not used.
    """
    if not isinstance(stage, str) or stage not in ("pretrain", "lora"):
        raise invalid("stage", stage, "pretrain or lora")
    found = _found(f"{stage}_collapse", scenario, fields, threads)
    return None if found is None else Threshold(found)


def interpolation(
    scenario: ScenarioLike | None = None, *, threads: int | None = None, **fields: Any
) -> Threshold | None:
    """``alpha_interp``, the samples over ``D^2`` below which training without a ridge drives the train error to zero.

    ``None`` without noise of the labels, where that is so at every ``alpha``.
    """
    found = _found("interpolation", scenario, fields, threads)
    return None if found is None else Threshold(found)


def perfect_recovery(scenario: ScenarioLike | None = None, *, threads: int | None = None, **fields: Any) -> float:
    """``alpha_c``, above which the Bayes-optimal estimator recovers the teacher without error if the labels have no noise.

    ``(1 - sum_i p_i^2)/(c K')`` over the atoms ``p_i`` of the teacher's spectrum, with ``c = 2`` (cross-attention: 1).
    """
    found = _found("perfect_recovery", scenario, fields, threads)
    return float("inf") if found is None else float(found)


def weak_recovery(
    scenario: ScenarioLike | None = None, *, threads: int | None = None, **fields: Any
) -> WeakRecoveryThreshold | None:
    """``alpha'_c``, above which training grows an overlap with the truth from nothing.

    The search starts at ``lora.alpha`` and covers a factor of ``1e4``. Check ``at.validity``: at small ridges the threshold lies where
    replica symmetry does not hold.
    """
    found = _found("weak_recovery", scenario, fields, threads)
    return None if found is None else WeakRecoveryThreshold(found)
