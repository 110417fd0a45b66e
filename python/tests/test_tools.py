"""Prescriptions, thresholds, bounds, spectra, trained networks, and functions of the user's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import lora_asymptotics as la


def test_the_best_ridge_is_better_than_its_neighbours(linear: dict[str, Any]) -> None:
    best = la.optimize(linear, "pretrain.errors.test", {"pretrain.lambda": (1e-3, 1.0)})
    ridge = best["pretrain.lambda"]
    assert best.converged and best.found[0].at_bound is None and best.value == best.outcome.pretrain.errors.test
    for factor in (0.9, 1.1):
        other = la.solve(linear, pretrain={"alpha": 0.2, "lambda": factor * ridge})
        assert other.pretrain.errors.test > best.value
    with pytest.raises(KeyError):
        _ = best["lora.lambda"]


def test_a_budget_is_split(linear: dict[str, Any]) -> None:
    scenario = {**linear, "lora": {"alpha": 1.0, "lambda": 0.5}, "options": {"log2_nodes": 7}}
    best = la.best_split(scenario, total=0.5, price=0.05)
    assert 1e-3 < best["finetuning_share"] < 1.0 and best.outcome.lora.errors.test == best.value


def test_the_best_rank_is_that_of_the_truth(finetuning: dict[str, Any]) -> None:
    scenario = {**finetuning, "lora": {"alpha": 20.0, "lambda": 0.5, "q0": [1.5, 1.0]}, "options": {"log2_nodes": 7}}
    best = la.optimize(scenario, "lora.errors.test", {"lora.rank": (1, 2)})
    assert best["lora.rank"] == 2 and best.solves >= 2


def test_no_optimum_is_an_error(finetuning: dict[str, Any]) -> None:
    finetuning["lora"] = {"alpha": 0.3, "lambda": 0.5}
    with pytest.raises(la.errors.NoOptimum):
        la.optimize(finetuning, "lora.errors.test", {"lora.lambda": (1e-4, 2e-4)}, scan=3)


def test_thresholds(linear: dict[str, Any], finetuning: dict[str, Any]) -> None:
    collapse = la.thresholds.collapse(linear)
    assert collapse is not None
    for factor, status in ((0.99, "converged"), (1.01, "collapsed")):
        ridge = factor * float(collapse)
        assert la.solve(linear, pretrain={"alpha": 0.2, "lambda": ridge}).pretrain.status == status
    # Linear attention sees K = T (T + 1)/2 coordinates.
    assert la.thresholds.perfect_recovery(linear) == pytest.approx((0.5 - 0.5**2 / 2) / 3, rel=1e-12)
    interpolation = la.thresholds.interpolation(linear)
    assert interpolation is not None and 0 < interpolation.value < 1 / 3
    assert la.thresholds.interpolation(linear, model={**linear["model"], "delta": 0.0}) is None
    assert la.thresholds.collapse(finetuning, "lora") is None
    softmax = {"tokens": 2, "activation": "softmax", "delta": 0.5}
    vanishing = la.thresholds.collapse(finetuning, "lora", model=softmax, lora={"alpha": 8.0})
    assert vanishing is not None
    collapsed = la.solve(finetuning, model=softmax, lora={"alpha": 8.0, "lambda": 1.05 * vanishing.value})
    assert collapsed.lora.status == "collapsed"
    recovery = la.thresholds.weak_recovery(finetuning, model=softmax, lora={"alpha": 3.0, "lambda": 0.5})
    assert recovery is not None and 0.1 < float(recovery) < 100 and recovery.at.validity.verdict


def test_a_bayes_curve_is_the_bound_of_single_solves(finetuning: dict[str, Any]) -> None:
    curve = la.BayesCurve(finetuning)
    along = curve([1.0, 3.0])
    alone = la.solve(finetuning, lora={"alpha": 3.0}, estimator="bayes_optimal")
    assert along["errors.test"][1] == alone.lora.errors.test == curve.solve(3.0).errors.test
    assert along["alignment"][1] > along["alignment"][0]
    assert curve.weak_recovery.value == alone.lora.alpha_c
    steps = curve.state_evolution(3.0, 0.01, 200)
    assert len(steps) == 201 and steps[-1] == pytest.approx(alone.lora.order.q, rel=1e-3)
    with pytest.raises(la.errors.InvalidParameter):
        curve.solve(-1.0)
    with pytest.raises(la.errors.InvalidParameter):
        curve([1.0, np.nan])
    # One token has two branches, which coexist between the spinodals.
    one = la.BayesCurve(finetuning, model={"tokens": 1, "activation": "linear", "delta": 1e-3}, frozen={"q0": 1e-3, "q": 0.0, "m": 0.0})
    if one.spinodals is not None:
        low, high = one.spinodals
        jump = one.information_theoretic_jump
        assert jump is not None and low <= jump <= high


def test_a_learned_spectrum_is_a_law(linear: dict[str, Any]) -> None:
    law = la.learned_spectrum(linear, points=2000)
    solved = la.solve(linear).pretrain
    assert law.rank_fraction == pytest.approx(solved.rank_fraction, rel=1e-9)
    mass = np.trapezoid(law.density, law.eigenvalues) if hasattr(np, "trapezoid") else np.trapz(law.density, law.eigenvalues)
    assert mass == pytest.approx(law.rank_fraction, rel=1e-3)
    probabilities = np.array([[0.1, 0.6], [0.9, 0.99]])
    quantiles = law.quantile(probabilities)
    assert quantiles.shape == (2, 2) and quantiles[0, 0] == 0.0
    np.testing.assert_allclose(law.distribution(quantiles)[1], probabilities[1], atol=1e-9)
    np.testing.assert_array_equal(law.density_at([-1.0, 1e9]), [0.0, 0.0])
    assert law.components[-1].high == pytest.approx(law.eigenvalues[-1])


def test_trained_networks_agree_with_the_theory(finetuning: dict[str, Any]) -> None:
    comparison = la.simulate.compare(finetuning, {100: 16}, seed=1)
    assert comparison.unconverged == 0 and comparison.outcome.lora.status == "converged"
    row = comparison.row("lora", "alignment")
    assert row.theory.mean == comparison.outcome.lora.alignment and abs(row.z) < 4
    assert comparison.to_pandas().shape == (len(comparison.rows), 7) and "alignment" in comparison._repr_html_()
    again = la.simulate.compare(finetuning, {100: 16}, seed=1, threads=1)
    assert again == comparison


def test_fixed_points_of_a_function() -> None:
    """The overlap of the posterior mean with hidden signs in a noisy matrix, at a signal-to-noise ratio of 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)

    def overlap(q: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        s = 2.0 * q
        return np.tanh(s[..., None] + np.sqrt(s)[..., None] * nodes) @ weights / math.sqrt(2 * math.pi)

    solved = la.fixed_point(overlap, [[0.5]], coordinates="log", tolerance=1e-12)
    # The same number as in docs/add_your_own.md.
    assert solved.converged and solved.point.shape == (1, 1) and solved.point[0, 0] == pytest.approx(0.6184475, abs=1e-6)
    assert solved.points.shape == (solved.iterations, 1, 1) and solved.residuals.min() == solved.residual
    slow = la.fixed_point(overlap, [[0.5]], coordinates="log", method="picard", max_iterations=3)
    assert slow.status == "max_iterations" and not slow.converged
    assert la.fixed_point(lambda x: x * np.nan, 1.0).status == "non_finite"


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": -1.0},
        {"tolerance": np.nan},
        {"max_iterations": 0},
        {"max_iterations": -1},
        {"mixing": 0.0},
        {"memory": 0},
        {"method": "newton"},
        {"coordinates": "polar"},
        {"coordinates": ["log", "log"]},
        {"start": -1.0, "coordinates": "log"},
        {"start": "one"},
    ],
)
def test_options_of_an_iteration_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(la.errors.InputError):
        la.fixed_point(np.tanh, **{"start": 1.0, **options})


def test_an_exception_of_the_map_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        la.fixed_point(lambda x: 1 / 0, 1.0)
    with pytest.raises(la.errors.Unreadable):
        la.fixed_point(lambda x: np.zeros(3), 1.0)


def softmax(h: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(h - h.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_derivative(h: np.ndarray[Any, Any], d: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    a = softmax(h)
    return a * (d - (a * d).sum(axis=-1, keepdims=True))


def sigmoid(h: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sigmoid of the schema at two tokens, with the bias ``-ln T``."""
    return 1 / (1 + np.exp(-(h - math.log(2))))


OPTIONS = {"log2_nodes": 7, "scrambles": 2}


def test_an_activation_of_ones_own_is_solved_like_that_of_the_library(finetuning: dict[str, Any]) -> None:
    own = la.Activation.elementwise(
        "own sigmoid",
        sigmoid,
        lambda h: sigmoid(h) * (1 - sigmoid(h)),
        lambda h: sigmoid(h) * (1 - sigmoid(h)) * (1 - 2 * sigmoid(h)),
        invertible=True,
    )
    model = {"tokens": 2, "delta": 0.5}
    training = {"lora": {"alpha": 30.0, "lambda": 0.05}, "options": OPTIONS}
    theirs = la.solve(finetuning, model={**model, "activation": "sigmoid"}, **training)
    mine = la.solve(finetuning, model={**model, "activation": own}, **training)
    assert mine.lora.status == theirs.lora.status
    assert mine.lora.errors.test == pytest.approx(theirs.lora.errors.test, rel=1e-6)
    assert mine.lora.alignment == pytest.approx(theirs.lora.alignment, rel=1e-6)
    many = la.solve_many([{**finetuning, "model": {**model, "activation": own}, **training}])
    assert many[0] == mine


def test_an_activation_of_whole_rows() -> None:
    own = la.Activation("own softmax", softmax, softmax_derivative, ignores_row_shifts=True, invertible=True)
    scenario = la.Scenario(
        model=la.Model(2, own, 0.5, teacher=la.Wishart(0.5), inverse_temperature=0.8),
        pretrain=la.Pretrain(0.4, 0.03),
        options=OPTIONS,
    )
    mine = la.solve(scenario)
    theirs = la.solve(scenario, model=la.Model(2, "softmax", 0.5, la.Wishart(0.5), inverse_temperature=0.8))
    assert mine.pretrain.status == theirs.pretrain.status == "converged"
    # The kernels of the library have other nodes.
    spread = 4 * math.hypot(mine.pretrain.std_error.test, theirs.pretrain.std_error.test)
    assert abs(mine.pretrain.errors.test - theirs.pretrain.errors.test) < spread + 1e-6
    with pytest.raises(la.errors.Conflict, match="sweep"):
        la.sweep(scenario, {"pretrain.lambda": [0.1]})


def test_a_wrong_activation_is_found_out() -> None:
    wrong = la.Activation.elementwise("wrong", np.tanh, lambda h: 1 - np.tanh(h))
    with pytest.raises(la.errors.Disagreement, match="derivative"):
        wrong.check()
    model = la.Model(2, wrong, 0.5)
    with pytest.raises(la.errors.Disagreement):
        la.solve(model=model, frozen=la.Frozen(2.0, 1.2, 1.1), lora=la.Lora(3.0, 0.5))
    with pytest.raises(la.errors.InvalidParameter):
        la.Activation("wrong", np.tanh, softmax_derivative, parity="strange")  # type: ignore[arg-type]
    with pytest.raises(la.errors.InputError):
        la.Activation("shape", lambda h: h[0], softmax_derivative).check()


def test_an_exception_of_an_activation_ends_the_solve() -> None:
    calls = []

    def value(h: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls.append(len(h))
        if len(calls) > 300:
            raise ZeroDivisionError("in the activation")
        return np.tanh(h)

    own = la.Activation.elementwise("late", value, lambda h: 1 - np.tanh(h) ** 2, parity="odd")
    with pytest.raises(ZeroDivisionError, match="in the activation"):
        la.solve(model=la.Model(2, own, 0.5), frozen=la.Frozen(2.0, 1.2, 1.1), lora=la.Lora(8.0, 0.1), options=OPTIONS)
    assert max(calls) > 1
