"""Outcomes: those of Rust to the last bit, and what Python adds to them."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_asymptotics as la


def golden(root: Path) -> list[dict[str, Any]]:
    lines = (root / "tests/data/golden.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def scenario_of(record: dict[str, Any]) -> str:
    scenario = record["scenario"]
    return scenario if isinstance(scenario, str) else json.dumps(scenario)


def test_golden_outcomes_are_those_of_rust_to_the_last_bit(root: Path) -> None:
    records = golden(root)
    outcomes = la.solve_many([scenario_of(record) for record in records], errors="return")
    assert len(records) == len(outcomes) > 100
    for record, outcome in zip(records, outcomes, strict=True):
        if "error" in record:
            assert isinstance(outcome, la.errors.Error), record["name"]
            assert outcome.kind == record["error"]["kind"], record["name"]
        elif os.environ.get("GOLDEN") == "bits":
            assert outcome.to_dict() == record["outcome"], record["name"]
        else:
            # On another platform than that of the records, the last digits may differ.
            stages = [(name, stage.status) for name, stage in outcome.stages()]
            recorded = la.Outcome(record["outcome"])
            assert stages == [(name, stage.status) for name, stage in recorded.stages()], record["name"]


def test_an_outcome_has_attributes(linear: dict[str, Any]) -> None:
    outcome = la.solve(linear, lora={"alpha": 3.0, "lambda": 0.5}, options={"log2_nodes": 9})
    stage = outcome.lora
    assert stage.alignment == pytest.approx(stage.order.m / math.sqrt(stage.order.q), rel=1e-14)
    assert outcome.converged and outcome.reliable and outcome.into_converged() is outcome
    assert stage.std_error.test > 0 and stage.std_error.no_such_number is None
    assert outcome.pretrain.validity.replicon is None
    assert "lora" in outcome and "bayes_optimal" not in outcome
    with pytest.raises(AttributeError, match="asked for no 'bayes_optimal'"):
        _ = outcome.bayes_optimal
    with pytest.raises(AttributeError, match="read-only"):
        stage.alignment = 1.0
    assert {"alignment", "order", "errors"} <= set(dir(stage))


def test_an_outcome_is_a_value(linear: dict[str, Any]) -> None:
    outcome = la.solve(linear, estimator="both")
    for copied in (
        pickle.loads(pickle.dumps(outcome)),
        copy.deepcopy(outcome),
        la.Outcome.from_json(outcome.to_json()),
        la.Outcome(outcome.to_dict()),
    ):
        assert copied == outcome and copied.to_json() == outcome.to_json()
        assert isinstance(copied.bayes_optimal.pretrain, type(outcome.bayes_optimal.pretrain))
    assert outcome != la.solve(linear)


def test_an_outcome_shows_its_numbers_and_colours_its_verdict(linear: dict[str, Any], finetuning: dict[str, Any]) -> None:
    html = la.solve(linear)._repr_html_()
    assert "errors.test" in html and "0.700224" in html and ">good<" in html
    finetuning["lora"] = {"alpha": 0.5, "lambda": 1e-3}
    bad = la.solve(finetuning)
    assert bad.lora.validity.verdict == "unreliable" and not bad.reliable
    good_colour, bad_colour = (h.split(f">{word}<")[0].rsplit("background:", 1)[1][:7] for h, word in ((html, "good"), (bad._repr_html_(), "unreliable")))
    assert good_colour != bad_colour
    assert "test error" in repr(bad) and "unreliable" in repr(bad)


def test_rows_have_standard_errors(finetuning: dict[str, Any]) -> None:
    outcome = la.solve(finetuning, estimator="both")
    rows = {path: (value, error) for path, value, error in outcome.rows()}
    assert rows["lora.errors.test"] == (outcome.lora.errors.test, outcome.lora.std_error.test)
    bound = outcome.bayes_optimal.lora
    assert rows["bayes_optimal.lora.alignment"] == (bound.alignment, bound.std_error.alignment)
    assert rows["bayes_optimal.lora.branches.information_theoretic.q"][1] is None


def test_a_bound_alone_takes_the_place_of_the_stages(linear: dict[str, Any]) -> None:
    outcome = la.solve(linear, pretrain={"alpha": 0.2}, estimator="bayes_optimal")
    both = la.solve(linear, estimator="both")
    assert outcome.pretrain == both.bayes_optimal.pretrain
    assert outcome.pretrain.alignment > both.pretrain.alignment


def test_numbers_that_are_not_finite_are_nan_and_never_a_success(linear: dict[str, Any]) -> None:
    linear["model"] = {**linear["model"], "activation": "softmax", "inverse_temperature": 1e6}
    outcome = la.solve(linear, lora={"alpha": 3.0, "lambda": 0.5})
    assert outcome.pretrain.status == "non_finite" and math.isnan(outcome.pretrain.errors.test)
    assert outcome.lora.status == "skipped" and not outcome.converged and not outcome.reliable
    with pytest.raises(AttributeError, match="skipped"):
        _ = outcome.lora.errors
    assert "skipped" in outcome._repr_html_()
    with pytest.raises(la.errors.NotConverged) as caught:
        outcome.into_converged()
    assert (caught.value.field, caught.value.value) == ("pretrain", "non_finite")


def test_all_forms_of_a_scenario_are_the_same(linear: dict[str, Any]) -> None:
    typed = la.Scenario(
        model=la.Model(tokens=2, activation="linear", delta=np.float64(0.5), teacher=la.Wishart(kappa0=0.5)),
        pretrain=la.Pretrain(alpha=0.2, lambda_=0.1),
    )
    expected = la.solve(linear)
    for outcome in (
        la.solve(json.dumps(linear)),
        la.solve(typed),
        la.solve(**linear),
        la.solve(typed, model=linear["model"]),
        la.solve(json.dumps(linear), pretrain=la.Pretrain(np.float32(0.25), 0.1), threads=1).__class__(expected.to_dict()),
        la.solve(linear, threads=1),
        la.solve(linear, threads=3),
    ):
        assert outcome == expected


def test_classes_have_all_fields_of_the_schema() -> None:
    """The readers of the library list the fields that they know."""
    model = {"tokens": 2, "activation": "linear", "delta": 0.5}
    for kind, wrong in (
        (la.Scenario, {"x": 0}),
        (la.Model, {"model": {**model, "x": 0}}),
        (la.Pretrain, {"model": model, "pretrain": {"x": 0}}),
        (la.Frozen, {"model": model, "frozen": {"x": 0}}),
        (la.Lora, {"model": model, "lora": {"x": 0}}),
        (la.Options, {"model": model, "options": {"x": 0}}),
    ):
        with pytest.raises(la.errors.Unreadable) as caught:
            la.solve(wrong)
        allowed = caught.value.allowed
        assert allowed is not None
        known = {name.strip("`, ") for name in allowed.removeprefix("one of").split(",")}
        assert known - {"attention"} == {name.rstrip("_") for name in kind.__dataclass_fields__} - {"attention"}


def test_a_similar_outcome_is_a_start(finetuning: dict[str, Any]) -> None:
    first = la.solve(finetuning)
    finetuning["lora"]["lambda"] = 0.51
    cold, warm = la.solve(finetuning), la.solve(finetuning, previous=first)
    assert warm.lora.errors.test == pytest.approx(cold.lora.errors.test, rel=1e-3)
    assert warm.lora.iterations < cold.lora.iterations


def test_own_weights_and_lists() -> None:
    outcome = la.solve(
        model=la.Model(tokens=2, activation="softmax", delta=0.5),
        frozen=la.Frozen(q0=2.0, q=1.2, m=1.1),
        lora=la.Lora(alpha=12.0, lambda_=0.1, rank=2, q0=np.array([1.5, 0.5]), sequences=la.Active(0.5)),
        options=la.Options(log2_nodes=7, scrambles=2),
    )
    columns = outcome.lora.columns
    assert columns is not None and len(columns) == 2 and columns[0].q > columns[1].q
    eigenvalues = np.linspace(0.0, 2.0, 5)
    spectrum = la.solve(
        model=la.Model(2, "linear", 0.5, la.Spectrum(eigenvalues=eigenvalues)), pretrain=la.Pretrain(0.5, 0.1)
    )
    assert spectrum.pretrain.q0 == pytest.approx((eigenvalues**2).mean(), rel=1e-14)
