"""Solving one scenario, many, or a grid of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native
from .activation import adapter
from .errors import Error, InputError, invalid, unreadable
from .outcome import Outcome
from .schema import Request, ScenarioLike, request, threads_checked, without_activation

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Outcomes", "Sweep", "solve", "solve_many", "sweep"]

#: A bar of tqdm (``True``), nothing, or a function of the number of solved points and that of all points.
Progress = Union[bool, Callable[[int, int], object], None]


def native(request: Request) -> tuple[str, Any]:
    """A scenario as the extension module takes it."""
    text, activation = request
    return text, adapter(activation)


def solve(
    scenario: ScenarioLike | None = None,
    *,
    previous: Outcome | None = None,
    threads: int | None = None,
    **fields: Any,
) -> Outcome:
    """Solves a scenario.

    The scenario is a mapping, a JSON text or a :class:`~lora_asymptotics.Scenario`; its parts can also be given as keywords
    (``model``, ``pretrain``, ``frozen``, ``lora``, ``estimator``, ``options``), which replace those of the scenario. ``previous``,
    the outcome of a similar scenario, is where the search begins. The answer has the same bits on any number of ``threads``,
    which are those of the machine if not given.

    >>> from lora_asymptotics import Model, Pretrain, Wishart, solve
    >>> outcome = solve(model=Model(tokens=2, activation="linear", delta=0.5, teacher=Wishart(0.5)), pretrain=Pretrain(0.2, 0.1))
    >>> round(outcome.pretrain.errors.test, 4), outcome.pretrain.status
    (0.7002, 'converged')

    A solve without a fixed point is an outcome whose status says so. Raises :class:`~lora_asymptotics.errors.InputError` with the
    field for invalid input, and ``KeyboardInterrupt`` within a second of Ctrl-C.
    """
    if not (previous is None or isinstance(previous, Outcome)):
        raise unreadable("previous", previous, "an Outcome")
    before = None if previous is None else previous.to_json()
    return Outcome.from_json(_native.solve(native(request(scenario, fields)), before, threads_checked(threads)))


class Outcomes(list[Any]):
    """Outcomes in the order of their scenarios; ``None`` for scenarios that an interruption left unsolved."""

    #: Whether Ctrl-C ended the calculation.
    interrupted: bool = False


def solve_many(
    scenarios: Iterable[ScenarioLike],
    *,
    threads: int | None = None,
    progress: Progress = None,
    errors: Literal["raise", "return"] = "raise",
) -> Outcomes:
    """Solves several scenarios, in parallel, and returns their outcomes in order.

    Every thread takes a scenario; where there are fewer scenarios than threads, all threads share each of them. Every scenario is checked before the first one is solved. With ``errors="return"`` the exception of a scenario takes the place of
    its outcome; with ``"raise"``, the first one is raised. ``progress=True`` shows a bar (with tqdm); a function is called with the
    numbers of solved and of all scenarios. Ctrl-C returns within a second with what is there; ``interrupted`` is then true.
    """
    if not isinstance(errors, str) or errors not in ("raise", "return"):
        raise invalid("errors", errors, "raise or return")
    if isinstance(scenarios, (str, Mapping)) or not isinstance(scenarios, Iterable) or getattr(scenarios, "ndim", 1) == 0:
        raise unreadable("scenarios", scenarios, "a list of scenarios")
    answers: list[Any] = []
    requests: list[tuple[str, Any]] = []
    for scenario in scenarios:
        try:
            answer = native(request(scenario, {}))
            _native.check(answer)
        except InputError as error:
            if errors == "raise":
                raise
            answers.append(error)
            continue
        answers.append(None)
        requests.append(answer)
    with reporter(progress, len(requests)) as report:
        solved, interrupted = _native.solve_many(requests, threads_checked(threads), report)
    found = iter(solved)
    result = Outcomes(next(found) if answer is None else answer for answer in answers)
    result.interrupted = interrupted
    for place, answer in enumerate(result):
        if isinstance(answer, str):
            result[place] = Outcome.from_json(answer)
        elif isinstance(answer, Error) and errors == "raise":
            raise answer
    return result


@contextlib.contextmanager
def reporter(progress: Progress, total: int) -> Iterator[Callable[[int], object] | None]:
    """A function of the number of solved points."""
    if progress is None or progress is False:
        yield None
    elif progress is not True and not callable(progress):
        raise unreadable("progress", progress, "True, False or a function")
    elif callable(progress):
        tell = progress
        yield lambda done: tell(done, total)
    else:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'lora_asymptotics[progress]'") from None
        with tqdm(total=total) as bar:
            yield lambda done: bar.update(done - bar.n)


class Sweep(dict[str, NDArray[Any]]):
    """The points of a grid as columns: a dictionary of NumPy arrays, one entry per solved point, the last axis fastest.

    The first columns are the axes, and the others all numbers of the outcomes under their paths (``"pretrain.errors.test"``), with
    NaN where there is none. Standard errors are under ``std_error`` (``"lora.std_error.test"``); statuses and verdicts are texts.
    """

    #: Names and values of the axes.
    axes: dict[str, NDArray[Any]]
    #: Whether Ctrl-C came before the end. All points can be there if it came after the last one.
    interrupted: bool
    #: The texts of the errors of points that could not be solved, by number of the point.
    errors: dict[int, str]

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any]],
        axes: Mapping[str, NDArray[Any]],
        errors: Mapping[int, str],
        interrupted: bool,
    ) -> None:
        super().__init__(columns)
        self.axes = dict(axes)
        self.errors = dict(errors)
        self.interrupted = interrupted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.axes, self.errors, self.interrupted)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of every axis."""
        return tuple(len(values) for values in self.axes.values())

    @property
    def points(self) -> int:
        """Number of solved points."""
        return len(next(iter(self.values())))

    def grid(self, column: str) -> NDArray[Any]:
        """A column as an array with one index for every axis; points that are missing are NaN or ``None``."""
        values = self[column]
        missing: Any = np.nan if values.dtype.kind == "f" else None
        whole = np.full(int(np.prod(self.shape)), missing, dtype=values.dtype if missing is not None else object)
        if len(values) == len(whole):
            whole = values
        else:
            whole[: len(values)] = values
        return whole.reshape(self.shape)

    def to_pandas(self) -> pandas.DataFrame:
        """The points as a table of pandas."""
        import pandas

        return pandas.DataFrame(dict(self))

    def to_polars(self) -> polars.DataFrame:
        """The points as a table of polars."""
        import polars

        return polars.DataFrame(
            {name: column.tolist() if column.dtype == object else column for name, column in self.items()}
        )

    def __repr__(self) -> str:
        axes = " x ".join(f"{name} ({len(values)})" for name, values in self.axes.items())
        ended = ", interrupted" if self.interrupted else ""
        failed = f", {len(self.errors)} failed" if self.errors else ""
        return f"<Sweep over {axes}: {self.points} points, {len(self)} columns{failed}{ended}>"


def sweep(
    scenario: ScenarioLike | None,
    axes: Mapping[str, ArrayLike],
    *,
    threads: int | None = None,
    progress: Progress = None,
    **fields: Any,
) -> Sweep:
    """Solves a grid of scenarios: ``sweep(scenario, {"lora.alpha": [1, 2, 4], "pretrain.lambda": np.geomspace(1e-3, 1, 50)})``.

    An axis is the path of a number in the schema and its values. The last axis is the innermost one: along it every point begins with
    the solution of the one before, which is faster. Rows are solved in parallel (a single row on all threads). An error at
    a point is in ``errors``, and the others are solved. Ctrl-C returns within a second with what is there; ``interrupted`` is then
    true. ``progress`` is that of :func:`solve_many`.

    Every value is checked before anything is solved. Raises :class:`~lora_asymptotics.errors.InputError` with the field.
    """
    grid = Grid(scenario, axes, fields, "a sweep (use solve_many)")
    with reporter(progress, grid.points) as report:
        table, interrupted = _native.sweep(*grid.encoded, threads_checked(threads), report)
    return grid.solved(table, interrupted)


class Grid:
    """A grid that is checked but for the values of its axes."""

    def __init__(
        self, scenario: ScenarioLike | None, axes: Mapping[str, ArrayLike], fields: Mapping[str, Any], purpose: str
    ) -> None:
        text = without_activation(request(scenario, fields), purpose)
        if not isinstance(axes, Mapping) or not axes:
            raise unreadable("axes", axes, "a mapping from fields to lists of numbers, with at least one")
        if not all(isinstance(field, str) for field in axes):
            raise unreadable("axes", axes, "a mapping with names of fields")
        self.axes = {field: _axis(field, given) for field, given in axes.items()}
        self.points = math.prod(len(axis) for axis in self.axes.values())
        #: The grid as the extension module takes it.
        self.encoded = text, [(field, axis.astype(np.float64).tobytes()) for field, axis in self.axes.items()]

    def solved(self, table: _native._Table, interrupted: bool) -> Sweep:
        """The points that are solved, which come first."""
        points, columns, errors = table
        places = np.unravel_index(np.arange(points), tuple(len(axis) for axis in self.axes.values()))
        named: dict[str, NDArray[Any]] = {
            field: axis[place] for (field, axis), place in zip(self.axes.items(), places, strict=True)
        }
        for path, column in columns.items():
            if path != "version" and path not in named:
                named[path] = _column(column)
        failures = {index: error for index, error in enumerate(errors) if error is not None}
        return Sweep(named, self.axes, failures, interrupted)


def _axis(field: str, given: ArrayLike) -> NDArray[Any]:
    """The values of an axis as numbers."""
    try:
        axis = np.array(given)
    except (TypeError, ValueError):
        raise unreadable(field, given, "a list of numbers") from None
    if axis.ndim != 1 or axis.dtype.kind not in "iuf" or np.any(getattr(given, "mask", False)):
        raise unreadable(field, given, "a list of numbers")
    if len(axis) == 0 or not np.isfinite(axis).all():
        raise invalid(field, given, "finite numbers, at least one")
    return axis


def _column(column: bytearray | list[Any]) -> NDArray[Any]:
    if isinstance(column, bytearray):
        return np.frombuffer(column)
    if all(isinstance(value, bool) for value in column):
        return np.array(column, dtype=bool)
    array = np.empty(len(column), dtype=object)
    array[:] = column
    return array
