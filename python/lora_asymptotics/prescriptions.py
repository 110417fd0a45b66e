"""Prescriptions: the ridge, the recalibration, or the split of a budget of data at which an error is smallest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import _native
from .errors import unreadable
from .outcome import Outcome
from .records import Record
from .schema import ScenarioLike, plain, request, text, threads_checked
from .solving import native

__all__ = ["Optimum", "best_split", "optimize"]

#: Paths of the schema, and the names of the search.
_TARGETS = {
    "pretrain.errors.test": "pretrain_test",
    "lora.errors.test": "lora_test",
    "lora.alignment": "lora_alignment",
}
_PARAMETERS = {
    "pretrain.lambda": "pretrain_lambda",
    "lora.lambda": "lora_lambda",
    "lora.beta": "beta",
    "lora.rank": "rank",
}
#: Bounds of the share of a budget.
_SHARE = (1e-3, 1.0 - 1e-3)


class BestValue(Record):
    """The best value of one parameter."""

    parameter: Any
    value: float
    #: ``"lower"`` or ``"upper"`` if the best value is at a bound of the search.
    at_bound: str | None
    #: A change by a factor of at most 1 plus this number changes the target by less than its standard error.
    uncertainty: float | None


class Optimum(Record):
    """The best values of the parameters, and the outcome there."""

    found: list[BestValue]
    #: The target at the optimum.
    value: float
    std_error: float | None
    outcome: Outcome
    #: Number of scenarios solved, and of those that could not be used.
    solves: int
    excluded: int
    #: Whether the search reached its tolerance.
    converged: bool

    def __getitem__(self, parameter: str) -> float:
        """The best value of a parameter, by its path in the schema."""
        name = _PARAMETERS.get(parameter, parameter)
        for best in self.found:
            if best.parameter == name or (isinstance(best.parameter, Record) and name in best.parameter):
                return best.value
        raise KeyError(parameter)


def optimize(
    scenario: ScenarioLike | None,
    target: str,
    variables: Mapping[str, tuple[float, float]],
    *,
    tolerance: float = 1e-4,
    scan: int = 9,
    max_solves: int = 1000,
    reliable_only: bool = True,
    threads: int | None = None,
    **fields: Any,
) -> Optimum:
    """Finds the values of parameters that make a target as good as possible.

    The target is ``"pretrain.errors.test"`` or ``"lora.errors.test"`` (minimised), ``"lora.alignment"`` (maximised), or
    ``"effective_noise"`` (minimised). ``variables`` are ``"pretrain.lambda"``, ``"lora.lambda"``, ``"lora.beta"`` and
    ``"lora.rank"`` with their bounds: ``{"pretrain.lambda": (1e-3, 1.0)}``. One variable is scanned at ``scan`` points and refined by
    Brent's method, several are searched by the simplex method, at each of the ranks. ``reliable_only`` leaves out points where replica symmetry cannot be trusted.

    Raises :class:`~lora_asymptotics.errors.InputError` for invalid input, and :class:`~lora_asymptotics.errors.NoOptimum`.
    """
    if not isinstance(target, str):
        raise unreadable("target", target, "a text")
    if not isinstance(variables, Mapping):
        raise unreadable("variables", variables, "a mapping from parameters to their bounds")
    listed = [_variable(_PARAMETERS.get(name, name), name, bounds) for name, bounds in variables.items()]
    settings = {
        "tolerance": tolerance,
        "scan": scan,
        "max_solves": max_solves,
        "reliable_only": reliable_only,
    }
    return _optimum(scenario, fields, _TARGETS.get(target, target), listed, settings, threads)


def best_split(
    scenario: ScenarioLike | None,
    total: float,
    price: float,
    variables: Mapping[str, tuple[float, float]] | None = None,
    *,
    threads: int | None = None,
    **fields: Any,
) -> Optimum:
    """Finds the split of a budget ``alpha + price alpha' = total`` between the stages that minimises ``E'``.

    ``optimum["finetuning_share"]`` is the share that is spent on fine-tuning. Other variables can be optimised at the same time.
    """
    share = {"finetuning_share": {"total": total, "price": price}}
    others = variables or {}
    listed = [_variable(share, "share", _SHARE)]
    listed += [_variable(_PARAMETERS.get(name, name), name, bounds) for name, bounds in others.items()]
    return _optimum(scenario, fields, "lora_test", listed, {}, threads)


def _variable(parameter: Any, name: str, bounds: Any) -> list[Any]:
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise unreadable(f"variables.{name}", bounds, "a pair of bounds") from None
    return [parameter, plain(low, f"variables.{name}"), plain(high, f"variables.{name}")]


def _optimum(
    scenario: ScenarioLike | None,
    fields: dict[str, Any],
    target: str,
    variables: list[list[Any]],
    settings: dict[str, Any],
    threads: int | None,
) -> Optimum:
    search = text({"target": target, "variables": variables, "settings": settings})
    return Optimum(json.loads(_native.optimize(native(request(scenario, fields)), search, threads_checked(threads))))
