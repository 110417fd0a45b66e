"""The fixed point of a state evolution of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native
from .errors import Unreadable, invalid, unreadable
from .schema import function, number, whole

__all__ = ["FixedPoint", "fixed_point"]

Coordinates = Literal["linear", "log"]


@dataclass(frozen=True)
class FixedPoint:
    """What an iteration returned: the point of smallest residual that it has seen."""

    #: The point, of the shape of the start.
    point: NDArray[np.float64]
    #: Undamped residual ``max_i |F(x)_i - x_i|`` in the coordinates iterated on.
    residual: float
    #: Number of evaluations of the map.
    iterations: int
    #: ``converged``, ``stalled``, ``max_iterations``, or ``non_finite``.
    status: str
    #: All points, shape ``(iterations, ...)``, and their residuals.
    points: NDArray[np.float64]
    residuals: NDArray[np.float64]

    @property
    def converged(self) -> bool:
        return self.status == "converged"


class _Iteration:
    """The options of an iteration, as the extension module reads them."""

    def __init__(
        self,
        logarithmic: list[bool],
        tolerance: float,
        max_iterations: int,
        patience: int,
        method: str,
        mixing: float,
        memory: int,
        warmup: int,
        max_step: float,
    ) -> None:
        self.logarithmic = logarithmic
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.patience = patience
        self.method = method
        self.mixing = mixing
        self.memory = memory
        self.warmup = warmup
        self.max_step = max_step


def fixed_point(
    map: Callable[[NDArray[np.float64]], ArrayLike],
    start: ArrayLike,
    *,
    coordinates: Coordinates | Sequence[Coordinates] = "linear",
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
    method: Literal["anderson", "damped", "picard"] = "anderson",
    mixing: float = 0.7,
    memory: int = 5,
    warmup: int = 4,
    max_step: float = 0.7,
    patience: int = 40,
) -> FixedPoint:
    """Solves ``x = map(x)``, for an array of any shape, by Anderson acceleration, damped or plain iteration.

    In ``"log"`` coordinates (one word for all components, or one for each) the logarithm of a component is iterated on, for positive
    quantities whose relative error matters. The iteration stops on the *undamped* residual, so that neither damping nor small
    steps fake convergence; a residual that stops improving leads to one fall-back to damped iteration, then to ``stalled``. NaN never
    counts as success.

    The magnetisation of a mean-field magnet:

    >>> import numpy as np
    >>> solved = fixed_point(lambda m: np.tanh(m / 0.9), 0.5, coordinates="log", tolerance=1e-13)
    >>> round(float(solved.point), 9), solved.status
    (0.525429513, 'converged')

    Exceptions of ``map`` are raised. Raises :class:`~lora_asymptotics.errors.InputError` for invalid options.
    """
    try:
        first = np.array(start, dtype=np.float64)
    except (TypeError, ValueError):
        raise unreadable("start", start, "an array of numbers") from None
    function(map, "map")
    if first.size == 0:
        raise invalid("start", start, "at least one number")
    words = [coordinates] if isinstance(coordinates, str) or not isinstance(coordinates, Iterable) else list(coordinates)
    if any(not isinstance(word, str) or word not in ("linear", "log") for word in words):
        raise invalid("coordinates", coordinates, "linear or log, once or for every component")
    if not isinstance(method, str) or method not in ("anderson", "damped", "picard"):
        raise invalid("method", method, "anderson, damped or picard")
    counts = {"max_iterations": max_iterations, "memory": memory, "warmup": warmup, "patience": patience}
    for name, count in counts.items():
        whole(count, name, 0, 2**31)
    iteration = _Iteration(
        logarithmic=[word == "log" for word in words],
        tolerance=number(tolerance, "tolerance"),
        max_iterations=max_iterations,
        patience=patience,
        method=method,
        mixing=number(mixing, "mixing"),
        memory=memory,
        warmup=warmup,
        max_step=number(max_step, "max_step"),
    )

    def image(point: list[float]) -> list[float]:
        returned = map(np.array(point).reshape(first.shape))
        try:
            value = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError):
            raise unreadable("map", returned, "a function that returns an array of numbers") from None
        if value.shape != first.shape:
            told = f"the map gives an array of shape {value.shape}: must be {first.shape}, that of the start"
            raise Unreadable(told, "syntax", "map", value.shape, str(first.shape))
        return [float(component) for component in value.ravel()]

    found = _native.fixed_point(image, first.ravel().tolist(), iteration)
    point, residual, iterations, status, history = found
    return FixedPoint(
        point=np.array(point).reshape(first.shape),
        residual=residual,
        iterations=iterations,
        status=status,
        points=np.array([step for step, _ in history]).reshape(-1, *first.shape),
        residuals=np.array([step for _, step in history]),
    )
