"""Outcomes: the solutions of every stage, with their errors, standard errors, statuses and verdicts.

The notation is that of the paper and of the schema. A sequence has ``T`` tokens in ``D`` dimensions; ``Q0, Q, M, V`` describe
pre-training and ``q0, q, m, v`` fine-tuning. Errors are per sequence, in the units of the loss. Solve statuses are
``converged``, ``collapsed``, ``noise_limited``, ``stalled``, ``max_iterations``, ``interrupted``, ``non_finite``, and ``skipped`` for a
fine-tuning without a pre-training to stand on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from .errors import NotConverged
from .records import Record

__all__ = ["Outcome"]

#: Statuses of a solution that is a fixed point.
_SUCCESSES = ("converged", "collapsed")


class StdError(Record):
    """Standard errors from independent scrambles, under the last part of the names of the numbers; ``None`` where there is none."""

    def __getattr__(self, name: str) -> float | None:
        if name.startswith("_"):
            raise AttributeError(name)
        value: float | None = self._fields.get(name)
        return value


class PretrainOrder(Record):
    """Order parameters of pre-training: ``Q = |S-hat|^2/D^2``, ``M = Tr(S-hat S*)/D^2``, the response ``V``, and conjugates."""

    q: float
    m: float
    v: float
    q_hat: float
    m_hat: float
    v_hat: float


class PretrainErrors(Record):
    """Errors per sequence: on new sequences with noisy and with noiseless labels, and on the training sequences."""

    test: float
    test_clean: float
    train: float


class PretrainValidity(Record):
    """When to trust replica symmetry: the fraction of samples with several minima, the replicon, and the verdict from both."""

    contested: float
    replicon: float | None
    reliable: bool
    verdict: str


class PretrainSolution(Record):
    """The pre-training stage."""

    order: PretrainOrder
    q0: float
    #: ``tr s-hat``.
    trace: float
    rank_fraction: float
    objective: float
    errors: PretrainErrors
    #: ``o_W = M/sqrt(Q Q0)``.
    alignment: float
    validity: PretrainValidity
    status: str
    residual: float
    iterations: int
    std_error: StdError


class PretrainBoundErrors(Record):
    """The least errors of any algorithm."""

    test: float
    test_clean: float


class BoundOrder(Record):
    """The overlap of the posterior mean with the truth, and its conjugate."""

    q: float
    q_hat: float


class PretrainBound(Record):
    """The Bayes-optimal pre-training stage."""

    order: BoundOrder
    q0: float
    errors: PretrainBoundErrors
    #: ``sqrt(Q_BO/Q0)``.
    alignment: float
    #: Threshold of perfect recovery without noise of the labels.
    alpha_c: float | None
    status: str
    residual: float
    iterations: int
    std_error: StdError


class LoraOrder(Record):
    """Order parameters of fine-tuning: ``q = |w-hat|^2/D``, ``m = w-hat.w*/D``, the response ``v``, conjugates, and the shift ``eta``."""

    q: float
    m: float
    v: float
    q_hat: float
    m_hat: float
    v_hat: float
    eta: float


class LoraErrors(Record):
    """Errors per sequence; ``frozen`` is the test error without fine-tuning, ``forgetting`` the one on the task of pre-training after it."""

    test: float
    test_clean: float
    train: float
    frozen: float
    forgetting: float


class LoraColumn(Record):
    """Order parameters of one column of the weights; with two factors, the column has those of ``b`` and ``a`` in their place."""

    q: float
    m: float
    v: float
    q_hat: float
    m_hat: float
    v_hat: float
    std_error: StdError


class FiniteSize(Record):
    """Coefficients of ``D^{-1/2}`` on real frozen weights, under the names of what they correct."""

    q: float
    m: float
    alignment: float
    objective: float
    test: float
    test_clean: float
    train: float
    frozen: float
    std_error: StdError


class EffectiveNoise(Record):
    """``Delta_eff``, all that linear fine-tuning sees of pre-training."""

    train: float | None
    test: float


class LoraValidity(Record):
    """When to trust replica symmetry: the share ``J`` of the response that comes from jumps, the replicon, and the verdict."""

    jump: float
    replicon: float
    reliable: bool
    verdict: str
    #: Whether the alignment is above the Bayes-optimal bound, if that was asked for.
    above_bound: bool | None


class LoraSolution(Record):
    """The fine-tuning stage."""

    order: LoraOrder
    columns: list[LoraColumn] | None
    objective: float
    errors: LoraErrors
    #: ``o_w = m/sqrt(q q0)``.
    alignment: float
    cosines: list[float] | None
    effective_noise: EffectiveNoise | None
    validity: LoraValidity
    branch: str | None
    #: With the option of the same name.
    finite_size: FiniteSize | None
    status: str
    residual: float
    iterations: int
    std_error: StdError


class LoraBoundErrors(Record):
    """The least errors of any algorithm; ``frozen`` is that of the frozen weights alone."""

    test: float
    test_clean: float
    frozen: float


class LoraBranch(Record):
    """A stable fixed point of the Bayes-optimal equations."""

    q: float
    alignment: float
    errors: LoraBoundErrors
    free_energy: float


class LoraBranches(Record):
    """What message passing reaches, and what is possible at all."""

    algorithmic: LoraBranch
    information_theoretic: LoraBranch


class LoraBound(Record):
    """The Bayes-optimal fine-tuning stage."""

    order: BoundOrder
    errors: LoraBoundErrors
    #: ``o_w = sqrt(q/q0)`` of the algorithmic branch.
    alignment: float
    branches: LoraBranches
    #: Threshold of weak recovery.
    alpha_c: float
    status: str
    residual: float
    iterations: int
    std_error: StdError


class Skipped(Record):
    """The place of a stage that was not solved; ``reason`` tells why."""

    status: str
    reason: str

    def _absent(self, name: str) -> str:
        return f"the stage was skipped ({self._fields.get('reason')}), and has no {name!r}"


def _stage(value: Mapping[str, Any], solution: type[Record], bound: type[Record]) -> Record:
    if value.get("status") == "skipped":
        return Skipped(value)
    # The posterior mean has no objective.
    return solution(value) if "objective" in value else bound(value)


class Bound(Record):
    """The Bayes-optimal stages."""

    pretrain: PretrainBound
    lora: LoraBound

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        _set_stages(self, data)


def _set_stages(record: Record, data: Mapping[str, Any]) -> None:
    for name, kinds in (("pretrain", (PretrainSolution, PretrainBound)), ("lora", (LoraSolution, LoraBound))):
        if isinstance(data.get(name), Mapping):
            record._fields[name] = _stage(data[name], *kinds)


class Outcome(Record):
    """The outcome of a scenario, with one attribute for every stage that was asked for.

    ``outcome.pretrain`` and ``outcome.lora`` are those of training. With ``estimator="both"``, ``outcome.bayes_optimal`` has the bound
    beside them, and with ``"bayes_optimal"`` alone the bound is in their place. ``"lora" in outcome`` tells whether a
    stage is there. Outcomes are read-only, are compared by value, and can be pickled.
    """

    pretrain: PretrainSolution
    lora: LoraSolution
    bayes_optimal: Bound

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        _set_stages(self, data)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that a line of JSON describes, as the command-line programs write it."""
        return cls(json.loads(text))

    def to_json(self) -> str:
        """The outcome as one line of JSON, with every number to its last bit."""
        return json.dumps(self._data, separators=(",", ":"), allow_nan=False)

    @property
    def converged(self) -> bool:
        """Whether every stage is a fixed point (``converged`` or ``collapsed``)."""
        return all(stage.status in _SUCCESSES for _, stage in self.stages())

    @property
    def reliable(self) -> bool:
        """Whether no verdict on replica symmetry is ``unreliable``, and every stage was solved."""
        verdicts = (stage.get("validity") for _, stage in self.stages())
        return all(validity.reliable for validity in verdicts if validity is not None) and not any(
            isinstance(stage, Skipped) for _, stage in self.stages()
        )

    def into_converged(self) -> Outcome:
        """The outcome itself if it :attr:`converged`.

        Raises :class:`~lora_asymptotics.errors.NotConverged` with the stage and its status.
        """
        for name, stage in self.stages():
            if stage.status not in _SUCCESSES:
                told = f"{name}: {stage.status}, residual {stage.get('residual', float('nan')):.2e}"
                raise NotConverged(told, "not_converged", name, stage.status, " or ".join(_SUCCESSES))
        return self

    def stages(self) -> Iterator[tuple[str, Any]]:
        """The names and the solutions of all stages."""
        for name in ("pretrain", "lora"):
            if name in self._fields:
                yield name, self._fields[name]
        bound = self._fields.get("bayes_optimal")
        for name in ("pretrain", "lora"):
            if bound is not None and name in bound._fields:
                yield f"bayes_optimal.{name}", bound._fields[name]

    def rows(self) -> list[tuple[str, float, float | None]]:
        """All numbers with their paths and standard errors."""
        found = []
        for name, stage in self.stages():
            errors = stage.get("std_error")
            for path, value in _numbers(stage.to_dict(), name):
                leaf = path.rsplit(".", 1)[1]
                # Other numbers of the same names are those of branches and columns.
                own = path.count(".") - name.count(".") <= 2
                found.append((path, value, getattr(errors, leaf) if errors is not None and own else None))
        return found

    def _absent(self, name: str) -> str:
        return f"the scenario asked for no {name!r}; the outcome has {', '.join(self._fields)}"

    def __repr__(self) -> str:
        told = []
        for name, stage in self.stages():
            errors = stage.get("errors")
            numbers = "" if errors is None else f" test error {errors.test:.6g}, alignment {stage.alignment:.6g},"
            validity = stage.get("validity")
            verdict = "" if validity is None else f", {validity.verdict}"
            told.append(f"{name}:{numbers} {stage.status}{verdict}")
        return f"<Outcome {'; '.join(told)}>"

    def _repr_html_(self) -> str:
        return _table(self)


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name != "std_error":
                yield from _numbers(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{path}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


#: Colours of verdicts and statuses, dark enough for white text.
_GOOD, _DOUBTFUL, _BAD = "#00795a", "#8a5a00", "#b3261e"


def _badge(text: str) -> str:
    colour = {"good": _GOOD, "converged": _GOOD, "collapsed": _GOOD, "marginal": _DOUBTFUL, "noise_limited": _DOUBTFUL}
    style = f"background:{colour.get(text, _BAD)};color:#fff;border-radius:3px;padding:1px 6px"
    return f'<span style="{style}">{escape(text)}</span>'


def _table(outcome: Outcome) -> str:
    """The numbers that are looked at first, with standard errors, and the verdicts in colour."""
    parts = []
    rows = outcome.rows()
    for name, stage in outcome.stages():
        validity = stage.get("validity")
        verdict = "" if validity is None else f" {_badge(validity.verdict)}"
        head = f"<b>{escape(name)}</b> {_badge(stage.status)}{verdict}"
        parts.append(f'<tr><th colspan="3" style="text-align:left">{head}</th></tr>')
        shown = (f"{name}.errors.", f"{name}.alignment", f"{name}.order.")
        for path, value, error in rows:
            if path.startswith(shown):
                number = "" if math.isnan(value) else f"{value:.6g}"
                spread = "" if error is None else f"&plusmn; {error:.1g}"
                label = escape(path[len(name) + 1 :])
                parts.append(f"<tr><td>{label}</td><td>{number}</td><td>{spread}</td></tr>")
        if isinstance(stage, Skipped):
            parts.append(f'<tr><td>reason</td><td colspan="2">{escape(stage.reason)}</td></tr>')
    return f'<table class="lora-asymptotics">{"".join(parts)}</table>'
