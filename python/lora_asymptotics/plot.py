"""Figures with matplotlib (``pip install 'lora_asymptotics[plot]'``), in the colours of the gallery.

Every function draws on ``ax``, or on new axes, and returns the axes. Points that cannot be trusted are hollow or hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import invalid
from .simulate import Comparison
from .solving import Sweep
from .spectrum import LearnedSpectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "GREY",
    "learning_curve",
    "phase_diagram",
    "ridge_curve",
    "spectrum",
    "theory_against_training",
]

#: The colours of Okabe and Ito, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"

#: Lower ends of the classes of an alignment, and their colours.
_CLASSES = (0.0, 1e-3, 0.4, 0.7, 0.9, 1.0)
_CLASS_COLOURS = ("#eeeeee", "#b9dcf2", "#56B4E9", "#0072B2", "#00366b")

#: Names and symbols of numbers, by their paths.
_NAMES = {
    "pretrain.alpha": ("pre-training data", r"$\alpha = N/D^2$"),
    "pretrain.lambda": ("pre-training ridge", r"$\lambda$"),
    "lora.alpha": ("fine-tuning data", r"$\alpha' = N'/D$"),
    "lora.lambda": ("fine-tuning ridge", r"$\lambda'$"),
    "lora.beta": ("recalibration", r"$\beta$"),
    "model.delta": ("noise of the labels", r"$\Delta$"),
    "model.tokens": ("tokens", "$T$"),
    "pretrain.errors.test": ("test error", "$E$"),
    "lora.errors.test": ("test error", "$E'$"),
    "pretrain.alignment": ("alignment", "$o_W$"),
    "lora.alignment": ("alignment", "$o_w$"),
}


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots()[1]


def _label(path: str) -> str:
    return " ".join(_NAMES.get(path, (path,)))


def _value(path: str, value: float) -> str:
    """A value of an axis in a legend."""
    symbol = _NAMES.get(path, (path, path))[1].split(" =")[0]
    # A symbol that was cut has lost its end.
    return f"{symbol}{'$' if symbol.count('$') == 1 else ''} = {value:.3g}"


def _next_colour(ax: Axes) -> str:
    """The colour of a new curve: one for every curve that is there. Bounds, optima and hollow markers go with a curve."""
    curves = [line for line in ax.lines if line.get_linestyle() == "-"]
    return COLOURS[len(curves) % len(COLOURS)]


def _column(points: Sweep, path: str) -> NDArray[Any]:
    if path not in points:
        raise invalid("column", path, f"one of {', '.join(points)}")
    return points[path]


def _reliable(points: Sweep, path: str) -> NDArray[np.bool_]:
    """Whether the points of the stage of a number can be trusted; a fine-tuning needs its pre-training."""
    stages = ["pretrain", "lora"] if path.startswith("lora.") else [path.split(".", 1)[0]]
    trusted = np.ones(points.points, dtype=bool)
    for stage in stages:
        column = points.get(f"{stage}.validity.reliable")
        if column is not None:
            trusted &= np.array([value is not None and bool(value) for value in column])
    return trusted


def _inner(points: Sweep) -> str:
    return list(points.axes)[-1]


def _curve(points: Sweep, y: str, ax: Axes | None, label: str | None, colour: str | None, dashed: bool) -> Axes:
    """One line for every value of the outer axes, against the innermost one."""
    ax = _axes(ax)
    inner = _inner(points)
    outer = list(points.axes)[:-1]
    values, trusted = _column(points, y), _reliable(points, y)
    error = points.get(y.split(".")[0] + ".std_error." + y.rsplit(".", 1)[1])
    rows = np.arange(points.points) // len(points.axes[inner])
    for row in np.unique(rows):
        here = np.flatnonzero(rows == row)
        here = here[np.argsort(points[inner][here])]
        own = colour or _next_colour(ax)
        told = ", ".join(_value(path, points[path][here[0]]) for path in outer)
        name = ", ".join(part for part in (label, told) if part)
        x, curve = points[inner][here], values[here]
        ax.plot(x, curve, color=own, linewidth=2, linestyle="--" if dashed else "-", label=name or None)
        if error is not None:
            spread = np.nan_to_num(error[here])
            ax.fill_between(x, curve - 2 * spread, curve + 2 * spread, color=own, alpha=0.2, linewidth=0)
        doubtful = here[~trusted[here]]
        ax.plot(
            points[inner][doubtful],
            values[doubtful],
            linestyle="none",
            marker="o",
            markerfacecolor="none",
            markeredgecolor=own,
            label="_unreliable",
        )
    if np.all(points.axes[inner] > 0):
        ax.set_xscale("log")
    ax.set_xlabel(_label(inner))
    ax.set_ylabel(_label(y))
    if ax.get_legend_handles_labels()[1]:
        ax.legend()
    return ax


def learning_curve(
    points: Sweep,
    y: str | None = None,
    *,
    bound: bool = True,
    label: str | None = None,
    colour: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A number (by default the test error) against the amount of data, the innermost axis of the sweep.

    A band is two standard errors wide on both sides, and hollow markers are points that cannot be trusted. If the sweep has the
    Bayes-optimal bound (``estimator="both"``), it is dashed in the same colour.
    """
    inner = _inner(points)
    if not inner.endswith(".alpha"):
        raise invalid("axes", inner, "lora.alpha or pretrain.alpha as the last axis")
    y = y or f"{inner.split('.')[0]}.errors.test"
    ax = _axes(ax)
    before = len(ax.lines)
    _curve(points, y, ax, label, colour, dashed=False)
    best = f"bayes_optimal.{y}"
    if bound and best in points:
        told = f"{label}, bound" if label else "bound"
        _curve(points, best, ax, told, str(ax.lines[before].get_color()), dashed=True)
        ax.set_ylabel(_label(y))
    return ax


def ridge_curve(
    points: Sweep,
    y: str = "lora.errors.test",
    *,
    mark: bool = True,
    label: str | None = None,
    colour: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A number against a ridge, the innermost axis of the sweep; diamonds mark the best of the points that can be trusted."""
    inner = _inner(points)
    if not inner.endswith(".lambda"):
        raise invalid("axes", inner, "pretrain.lambda or lora.lambda as the last axis")
    ax = _axes(ax)
    before = len(ax.lines)
    _curve(points, y, ax, label, colour, dashed=False)
    if mark:
        sign = -1.0 if y.endswith("alignment") else 1.0
        cost = np.where(_reliable(points, y), sign * points[y], np.nan)
        rows = np.arange(points.points) // len(points.axes[inner])
        curves = [line for line in ax.lines[before:] if line.get_linestyle() == "-"]
        for row, line in zip(np.unique(rows), curves, strict=True):
            here = np.flatnonzero(rows == row)
            if np.isfinite(cost[here]).any():
                best = here[np.nanargmin(cost[here])]
                ax.plot(points[inner][best], points[y][best], "D", color=line.get_color(), markersize=7, label="_best")
    return ax


def phase_diagram(
    points: Sweep,
    z: str = "lora.alignment",
    *,
    colourbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """A number over a grid of two axes, the first upwards; the region where the prediction cannot be trusted is hatched.

    Alignments have the classes of the gallery, and other numbers a continuous scale. Cells without a number are white. The line
    is the border of the region in which fine-tuning collapses to zero weights.
    """
    if len(points.axes) != 2:
        raise invalid("axes", list(points.axes), "two axes")
    ax = _axes(ax)
    from matplotlib.colors import BoundaryNorm, ListedColormap

    (up, across) = points.axes
    _column(points, z)
    order = [np.argsort(values) for values in points.axes.values()]

    def sorted_grid(column: str) -> NDArray[Any]:
        return points.grid(column)[np.ix_(*order)]

    x, y = points.axes[across][order[1]], points.axes[up][order[0]]
    edges = _edges(x), _edges(y)
    style: dict[str, Any] = {"cmap": "viridis"}
    if z.endswith("alignment"):
        colours = ListedColormap(list(_CLASS_COLOURS))
        style = {"cmap": colours, "norm": BoundaryNorm(_CLASSES, colours.N)}
    mesh = ax.pcolormesh(*edges, sorted_grid(z).astype(float), **style)
    if colourbar:
        ax.figure.colorbar(mesh, ax=ax, label=_label(z))
    stage = z.split(".", 1)[0]
    status = sorted_grid(f"{stage}.status")
    reliable = np.full(int(np.prod(points.shape)), False)
    reliable[: points.points] = _reliable(points, z)
    reliable = reliable.reshape(points.shape)[np.ix_(*order)]
    # Weights that vanish are predicted reliably, whatever the gauges of replica symmetry say.
    solved = np.vectorize(lambda word: word is not None, otypes=[bool])(status)
    doubtful = solved & ~reliable & (status != "collapsed")
    for row, column in np.argwhere(doubtful):
        corner = edges[0][column], edges[1][row]
        size = edges[0][column + 1] - corner[0], edges[1][row + 1] - corner[1]
        ax.add_patch(_hatched(corner, size))
    collapsed = (status == "collapsed").astype(float)
    if 0 < collapsed.sum() < collapsed.size:
        ax.contour(x, y, collapsed, levels=[0.5], colors=GREY, linewidths=3)
    for values, scale in ((x, ax.set_xscale), (y, ax.set_yscale)):
        if np.all(values > 0):
            scale("log")
    ax.set_xlim(edges[0][0], edges[0][-1])
    ax.set_ylim(edges[1][0], edges[1][-1])
    ax.set_xlabel(_label(across))
    ax.set_ylabel(_label(up))
    return ax


def _hatched(corner: tuple[float, float], size: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, *size, fill=False, hatch="////", edgecolor=COLOURS[1], linewidth=0, gid="unreliable")


def _edges(centres: NDArray[Any]) -> NDArray[np.float64]:
    """Edges of cells around increasing values, halfway on the scale on which they are drawn."""
    logarithmic = bool(np.all(centres > 0))
    places = np.log(centres) if logarithmic else centres.astype(float)
    if len(places) == 1:
        places = np.array([places[0] - 0.5, places[0] + 0.5])
        between = places
    else:
        middle = 0.5 * (places[1:] + places[:-1])
        between = np.concatenate([[2 * places[0] - middle[0]], middle, [2 * places[-1] - middle[-1]]])
    return np.exp(between) if logarithmic else between


def spectrum(
    law: LearnedSpectrum,
    *,
    eigenvalues: ArrayLike | None = None,
    label: str | None = None,
    colour: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The density of the positive learned eigenvalues, and, if given, the histogram of those of a trained matrix."""
    ax = _axes(ax)
    own = colour or _next_colour(ax)
    name = f"{label}, atom {law.atom:.2f}" if label else f"atom at 0: {law.atom:.2f}"
    ax.plot(law.eigenvalues, law.density, color=own, linewidth=2, label=name)
    ax.fill_between(law.eigenvalues, law.density, color=own, alpha=0.15, linewidth=0)
    if eigenvalues is not None:
        measured = np.asarray(eigenvalues, dtype=float)
        # Eigenvalues that are not learned are positive only by rounding.
        positive = measured[measured > 1e-4 * max(float(measured.max()), 0.0)]
        if len(positive):
            density, bins = np.histogram(positive, bins="auto")
            ax.stairs(density / len(measured) / np.diff(bins), bins, color=own, linestyle="--")
    ax.set_xlabel(r"learned eigenvalue of $\hat S/\sqrt{D}$")
    ax.set_ylabel("density without the atom at 0")
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax


def theory_against_training(
    comparison: Comparison, *, observables: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Simulation minus theory of every observable, in standard errors; the band is that of two, and the lines those of four."""
    rows = [row for row in comparison.rows if np.isfinite(row.z)]
    if observables is not None:
        rows = [row for row in rows if row.observable in observables]
    if not rows:
        raise invalid("observables", observables, "some that the comparison has a standard error of")
    ax = _axes(ax)
    places = np.arange(len(rows))[::-1]
    ax.axvspan(-2, 2, color=GREY, alpha=0.15, linewidth=0)
    for z in (-4, 4):
        ax.axvline(z, color=GREY, linewidth=1, linestyle="--")
    colours: Mapping[str, str] = {"pretrain": COLOURS[0], "lora": COLOURS[1]}
    told: set[str] = set()
    for place, row in zip(places, rows, strict=True):
        label = {"pretrain": "pre-training", "lora": "fine-tuning"}[row.stage] if row.stage not in told else None
        told.add(row.stage)
        ax.errorbar(row.z, place, xerr=1, fmt="o", color=colours[row.stage], capsize=2, label=label)
    ax.set_yticks(places, [row.observable for row in rows])
    reach = 1.2 * max(5.0, *(abs(row.z) + 1 for row in rows))
    ax.set_xlim(-reach, reach)
    ax.set_xlabel("(simulation - theory) / standard error")
    ax.legend()
    return ax
