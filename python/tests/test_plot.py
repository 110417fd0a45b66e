"""Figures: what they draw, and on which axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex

import lora_asymptotics as la
from lora_asymptotics import plot


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    pyplot.close("all")


def test_a_learning_curve_has_a_bound_and_hollow_markers(finetuning: dict[str, Any]) -> None:
    finetuning["lora"]["lambda"] = 0.01
    points = la.sweep(finetuning, {"lora.alpha": [4.0, 1.0, 0.5]}, estimator="both")
    _, ax = pyplot.subplots()
    assert plot.learning_curve(points, label="linear", ax=ax) is ax
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["linear", "_unreliable", "linear, bound", "_unreliable"]
    curve, hollow, bound, _ = ax.lines
    assert list(curve.get_xdata()) == [0.5, 1.0, 4.0] and to_hex(str(curve.get_color())) == plot.COLOURS[0].lower()
    assert len(hollow.get_xdata()) == np.sum(~points["lora.validity.reliable"]) > 0
    assert bound.get_color() == curve.get_color() and bound.get_linestyle() == "--"
    assert np.all(bound.get_ydata() < curve.get_ydata())
    assert ax.get_xscale() == "log" and "alpha'" in ax.get_xlabel()
    with pytest.raises(la.errors.InvalidParameter):
        plot.ridge_curve(points)


def test_a_ridge_curve_marks_the_best_ridge_of_every_row(linear: dict[str, Any]) -> None:
    points = la.sweep(linear, {"pretrain.alpha": [0.1, 0.2], "pretrain.lambda": np.geomspace(0.01, 1.0, 9)})
    ax = plot.ridge_curve(points, "pretrain.errors.test")
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    for row, diamond in enumerate(diamonds):
        assert diamond.get_ydata() == points.grid("pretrain.errors.test")[row].min()
    assert [to_hex(str(line.get_color())) for line in diamonds] == [colour.lower() for colour in plot.COLOURS[:2]]
    legend = ax.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == [r"$\alpha$ = 0.1", r"$\alpha$ = 0.2"]
    with pytest.raises(la.errors.InvalidParameter, match="one of"):
        plot.ridge_curve(points, "luck")


def test_a_phase_diagram_hatches_what_cannot_be_trusted(finetuning: dict[str, Any]) -> None:
    finetuning["options"] = {"log2_nodes": 7, "scrambles": 2}
    axes = {"lora.lambda": np.geomspace(0.02, 2.0, 4), "lora.alpha": np.geomspace(10.0, 0.5, 4)}
    points = la.sweep(finetuning, axes)
    ax = plot.phase_diagram(points)
    hatched = [patch for patch in ax.patches if patch.get_gid() == "unreliable"]
    assert 0 < len(hatched) == np.sum(points["lora.validity.verdict"] == "unreliable") < 16
    # The corner of little data and a small ridge is among them.
    low = min(hatched, key=lambda patch: (patch.get_xy()[1], patch.get_xy()[0]))
    assert low.get_xy()[0] < 0.5 < low.get_xy()[0] + low.get_width()
    with pytest.raises(la.errors.InvalidParameter):
        plot.phase_diagram(la.sweep(finetuning, {"lora.alpha": [3.0]}))


def test_a_spectrum_and_a_histogram(linear: dict[str, Any]) -> None:
    law = la.learned_spectrum(linear)
    eigenvalues = law.quantile((np.arange(500) + 0.5) / 500)
    ax = plot.spectrum(law, eigenvalues=eigenvalues, label="linear")
    (stairs,) = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    values, edges, _ = stairs.get_data()
    assert np.sum(values * np.diff(edges)) == pytest.approx(law.rank_fraction, abs=2e-3)


def test_theory_against_training(finetuning: dict[str, Any]) -> None:
    comparison = la.simulate.compare(finetuning, {64: 8}, seed=2)
    ax = plot.theory_against_training(comparison)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [row.observable for row in comparison.rows if np.isfinite(row.z)]
    assert len(plot.theory_against_training(comparison, observables=["alignment"]).get_yticks()) == 1
    with pytest.raises(la.errors.InvalidParameter):
        plot.theory_against_training(comparison, observables=["luck"])
