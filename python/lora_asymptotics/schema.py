"""Scenarios: what to solve.

A scenario is a mapping, a JSON text, or a :class:`Scenario` made of the classes of this module. All three are the same schema; the
classes add completion and types. A field called ``lambda`` in the schema is ``lambda_`` here, because Python reserves the name.
The ranges are checked when the scenario is used, and errors name the field.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union

import numpy as np

from . import _native
from .activation import Activation
from .errors import Conflict, invalid, unreadable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "Active",
    "Frozen",
    "Lora",
    "Model",
    "Options",
    "PowerLaw",
    "Pretrain",
    "Scenario",
    "ScenarioLike",
    "Spectrum",
    "Wishart",
]


@dataclass(frozen=True)
class Wishart:
    """A teacher ``S* = P0^{-1/2} W W^T`` with ``W`` a ``D x P0`` Gaussian matrix (cross-attention: ``U V^T``)."""

    _name: ClassVar[str] = "wishart"
    #: Width ``P0/D``, from 1e-5 to 1e6.
    kappa0: float


@dataclass(frozen=True)
class Spectrum:
    """A teacher with given eigenvalues of ``s* = S*/sqrt(D)``, each of the same weight, or, for cross-attention, singular values."""

    _name: ClassVar[str] = "spectrum"
    #: 1 to 10,000 numbers >= 0. Nothing is rescaled: ``Q0`` is the mean of their squares.
    eigenvalues: ArrayLike | None = None
    #: The same for cross-attention.
    singular_values: ArrayLike | None = None


@dataclass(frozen=True)
class PowerLaw:
    """A teacher with eigenvalues proportional to ``i^(-exponent)``, ``i = 1..dimension``, scaled to ``Q0 = 1``."""

    _name: ClassVar[str] = "power_law"
    #: 0 to 100.
    exponent: float
    #: 1 to 10,000.
    dimension: int


@dataclass(frozen=True)
class Active:
    """Sequences that are selected by a score of their frozen logits."""

    _name: ClassVar[str] = "active"
    #: Fraction of the sequences that is kept, in ``(0, 1]``.
    fraction: float
    score: Literal["frobenius", "centred"] = "frobenius"


@dataclass(frozen=True)
class Model:
    """An attention layer ``yhat = sigma(b h(S)) X`` with ``h(S) = (X S X^T - Tr(S) I)/D``, and its teacher."""

    #: Tokens per sequence: 1 to 8 for linear attention, 2 to 8 otherwise.
    tokens: int
    #: ``"linear"``, ``"softmax"``, ``"softmax_one"``, ``"sigmoid"``, or an activation of your own.
    activation: str | Activation
    #: Variance of the noise of the labels, >= 0.
    delta: float
    #: The teacher. Pre-training needs one; frozen weights that are given exclude it.
    teacher: Wishart | Spectrum | PowerLaw | Mapping[str, Any] | None = None
    #: ``"tied"`` (the default) or ``"cross"``, with separate queries and keys.
    attention: Literal["tied", "cross"] | None = None
    #: ``b``, 1 by default; not for linear attention.
    inverse_temperature: float | None = None


@dataclass(frozen=True)
class Pretrain:
    """Pre-training on ``alpha D^2`` sequences."""

    #: Sequences over ``D^2``, > 0.
    alpha: float
    #: Ridge, >= 0; not for the Bayes-optimal estimator.
    lambda_: float | None = None
    #: Width of the student over ``D``, 1 by default; direct training has none.
    kappa: float | None = None
    #: What is trained: factors (the default), or the weights themselves with the ridge ``lambda |S|_F^2``.
    parametrisation: Literal["factorised", "direct"] | None = None


@dataclass(frozen=True)
class Frozen:
    """Overlaps of frozen weights, in the place of a pre-training: ``0 <= m <= sqrt(q q0)``."""

    q0: float
    q: float
    m: float
    #: Linear response of the pre-training, which reused sequences need.
    v: float | None = None
    #: ``tr s-hat`` and ``tr s*``, which the coefficients of ``D^{-1/2}`` need.
    trace: float | None = None
    trace0: float | None = None
    #: ``tr s-hat^3``, ``tr s-hat^2 s*``, ``tr s-hat s*^2`` and ``tr s*^3``, for the same.
    cubes: Sequence[float] | None = None
    #: Two traces with the response of the pre-training, for the same on reused sequences.
    response_traces: Sequence[float] | None = None
    #: The attention that the weights were trained with, that of the model by default.
    attention: Literal["tied", "cross"] | None = None


@dataclass(frozen=True)
class Lora:
    """Fine-tuning of ``w`` on ``alpha' D`` sequences, on top of the frozen weights ``beta S-hat``."""

    #: Sequences over ``D``, > 0 (after selection, for active sequences).
    alpha: float
    #: Ridge, >= 0; not for the Bayes-optimal estimator.
    lambda_: float | None = None
    #: Columns of ``w``, 1 to 8.
    rank: int | None = None
    #: Variance of the entries of the truth ``w*``, 1 by default; a list has one for each of its columns.
    q0: float | Sequence[float] | None = None
    #: Recalibration of the frozen weights, 1 by default.
    beta: float | None = None
    #: ``"fresh"`` (the default), ``"reused"``, or :class:`Active`.
    sequences: Literal["fresh", "reused"] | Active | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Options:
    """How to solve. What is not given has the default of the library."""

    #: Undamped residual at convergence, 1e-14 to 0.1; matched to the noise of the averages if not given.
    tolerance: float | None = None
    #: Bound on the iterations per fixed point.
    max_iterations: int | None = None
    #: ``log2`` of the number of nodes of a scramble, 6 to 20.
    log2_nodes: int | None = None
    #: Independent scrambles, 1 to 64. Standard errors need two.
    scrambles: int | None = None
    seed: int | None = None
    #: Which fixed point of fine-tuning.
    start: Literal["informed", "uninformed", "best"] | None = None
    #: Whether to report the coefficients of ``D^{-1/2}`` of fine-tuning.
    finite_size: bool | None = None


@dataclass(frozen=True)
class Scenario:
    """One experiment: a pre-training, or frozen weights given by hand, and a fine-tuning on top."""

    model: Model | Mapping[str, Any]
    pretrain: Pretrain | Mapping[str, Any] | None = None
    frozen: Frozen | Mapping[str, Any] | None = None
    lora: Lora | Mapping[str, Any] | None = None
    #: ``"erm"`` (the default, minimisation of the training loss), ``"bayes_optimal"``, or ``"both"``.
    estimator: Literal["erm", "bayes_optimal", "both"] | None = None
    options: Options | Mapping[str, Any] | None = None


#: What every function takes as a scenario.
ScenarioLike = Union[Scenario, Mapping[str, Any], str]

#: Depth of nested fields beyond which something refers to itself.
_DEEPEST = 20


def plain(value: Any, path: str = "", depth: int = 0) -> Any:
    """The value as JSON has it: plain numbers, texts, lists and dictionaries."""
    if depth > _DEEPEST:
        raise unreadable(path, value, "nested less deeply")
    if isinstance(value, np.ndarray) and np.any(getattr(value, "mask", False)):
        raise unreadable(path, value, "without masked entries")
    if isinstance(value, int) and value.bit_length() > 1024:
        raise unreadable(path, value, "a number within the range of double precision")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(path, value, "finite")
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        known = {name.rstrip("_"): item for name, item in given.items() if item is not None}
        name = getattr(value, "_name", None)
        return plain({name: known} if name else known, path, depth)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise unreadable(path, value, "a mapping with names of fields")
        below = f"{path}." if path else ""
        return {name: plain(item, below + name, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, path, depth + 1) for item in value]
    raise unreadable(path, value, "a number, a text, a list or a mapping")


def text(value: Any) -> str:
    """The value as JSON."""
    try:
        return json.dumps(plain(value), allow_nan=False)
    except RecursionError:
        raise unreadable("", value, "nested less deeply") from None


Request = tuple[str, "Activation | None"]


def request(scenario: ScenarioLike | None, fields: Mapping[str, Any]) -> Request:
    """A scenario as the extension module takes it: its JSON, and the activation if it is of the user's own.

    ``fields`` replace those of the scenario.
    """
    if scenario is None:
        scenario = {}
    if isinstance(scenario, str):
        try:
            scenario.encode()
        except UnicodeEncodeError:
            raise unreadable("", scenario, "a text of valid characters") from None
        if not fields:
            return scenario, None
        try:
            scenario = json.loads(scenario)
        except (ValueError, RecursionError):
            # The extension module has the better message.
            _native.check((str(scenario), None))
            raise
    if isinstance(scenario, Scenario):
        scenario = {field.name: getattr(scenario, field.name) for field in dataclasses.fields(scenario)}
        scenario = {name: value for name, value in scenario.items() if value is not None}
    if not isinstance(scenario, Mapping):
        raise unreadable("", scenario, "a mapping, a JSON text or a Scenario")
    merged = {**scenario, **{name: value for name, value in fields.items() if value is not None}}
    model, activation = _own_activation(merged.get("model"))
    if activation is not None:
        merged["model"] = model
    return text(merged), activation


def _own_activation(model: Any) -> tuple[Any, Activation | None]:
    """The model with a name of the schema in the place of an activation of the user, and that activation.

    The name only has to accept what the activation accepts: linear attention has no inverse temperature.
    """
    activation: Any = getattr(model, "activation", None)
    if isinstance(model, Mapping):
        activation = model.get("activation")
    if not isinstance(activation, Activation):
        return model, None
    tokens = model["tokens"] if isinstance(model, Mapping) and "tokens" in model else getattr(model, "tokens", None)
    if isinstance(tokens, (int, np.integer)) and 1 <= tokens <= 8:
        activation.check(int(tokens))
    name = "sigmoid" if activation.inverse_temperature else "linear"
    if isinstance(model, Mapping):
        return {**model, "activation": name}, activation
    return dataclasses.replace(model, activation=name), activation


def without_activation(request: Request, purpose: str) -> str:
    """The JSON of a scenario, for what cannot have an activation of the user."""
    json_text, activation = request
    if activation is not None:
        raise Conflict(
            f"model.activation must not be given together with {purpose}: it is code, and has no form in JSON",
            "conflict",
            "model.activation",
            activation.name,
            f"one of the schema with {purpose}",
        )
    return json_text


def threads_checked(threads: int | None) -> int | None:
    """The number of threads, which is that of the processors if it is not given."""
    if threads is None:
        return None
    return whole(threads, "threads", 1, 1024)


def whole(value: Any, field: str, low: int, high: int) -> int:
    """A whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise invalid(field, value, f"a whole number between {low} and {high}")
    return int(value)


def number(value: Any, field: str) -> float:
    """A number that is finite."""
    found = plain(value, field)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise unreadable(field, value, "a number")
    return float(found)


def function(value: Any, field: str) -> None:
    """Refuses what cannot be called."""
    if not callable(value):
        raise unreadable(field, value, "a function")
