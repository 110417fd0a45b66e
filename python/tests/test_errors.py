"""Invalid input of every kind is an exception with the field and what is allowed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_asymptotics as la
from lora_asymptotics import errors

MODEL = {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}
BASE: dict[str, Any] = {"model": MODEL, "pretrain": {"alpha": 0.2, "lambda": 0.1}}
LOOP: dict[str, Any] = {}
LOOP["model"] = LOOP

#: What is changed, the class of the error, the field, and a word of what is allowed.
WRONG: list[tuple[dict[str, Any], type[errors.Error], str | None, str | None]] = [
    ({"pretrain": {"alpha": -1, "lambda": 0.1}}, errors.InvalidParameter, "pretrain.alpha", "> 0"),
    ({"pretrain": la.Pretrain(0.0, 0.1)}, errors.InvalidParameter, "pretrain.alpha", "> 0"),
    ({"pretrain": {"alpha": float("nan"), "lambda": 0.1}}, errors.InvalidParameter, "pretrain.alpha", "finite"),
    ({"pretrain": {"alpha": np.inf, "lambda": 0.1}}, errors.InvalidParameter, "pretrain.alpha", "finite"),
    ({"pretrain": {"alpha": 0.2}}, errors.MissingField, "pretrain.lambda", "ridge"),
    ({"pretrain": {"alpha": 0.2, "lambada": 0.1}}, errors.Unreadable, "pretrain.lambada", "lambda"),
    ({"pretrain": {"alpha": "much", "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", "a number"),
    ({"pretrain": {"alpha": 1j, "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", "number"),
    ({"pretrain": {"alpha": True, "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", "a number"),
    ({"pretrain": {"alpha": [0.2], "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", "a number"),
    ({"pretrain": {"alpha": 10**400, "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", None),
    ({"pretrain": {"alpha": 10**5000, "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", "double precision"),
    ({"pretrain": {"alpha": np.ma.masked, "lambda": 0.1}}, errors.Unreadable, "pretrain.alpha", "masked"),
    # Lists have no names of fields, even if they are as long as an object.
    ({"pretrain": [0.2, 0.1]}, errors.Unreadable, "pretrain", "an object"),
    ({"model": [2, "linear", 0.5, None, None, None]}, errors.Unreadable, "model", "an object"),
    ({"lora": (3.0, 0.5)}, errors.Unreadable, "lora", "an object"),
    ({"frozen": np.ones(3)}, errors.Unreadable, "frozen", "an object"),
    ({"options": []}, errors.Unreadable, "options", "an object"),
    ({"pretrain": {1: 0.2}}, errors.Unreadable, "pretrain", "names"),
    ({"pretrain": {"alpha": 0.2, "lambda": 0.1, "kappa": 0.01}}, errors.RankDoesNotFit, "pretrain.kappa", ">="),
    ({"pretrain": object()}, errors.Unreadable, "pretrain", "mapping"),
    ({"model": {**MODEL, "tokens": 9}}, errors.InvalidParameter, "model.tokens", "between 1 and 8"),
    ({"model": {**MODEL, "tokens": 2.5}}, errors.Unreadable, "model.tokens", "a whole number"),
    ({"model": {**MODEL, "tokens": -1}}, errors.Unreadable, "model.tokens", "a whole number"),
    ({"model": {**MODEL, "activation": "relu"}}, errors.Unreadable, "model.activation", "softmax"),
    ({"model": {**MODEL, "delta": None}}, errors.Unreadable, "model.delta", "a number"),
    ({"model": {**MODEL, "inverse_temperature": 2.0}}, errors.Conflict, "model.inverse_temperature", "not together"),
    ({"model": {**MODEL, "teacher": {"spectrum": {"eigenvalues": []}}}}, errors.InvalidParameter, "model.teacher.spectrum.eigenvalues", "1 to"),
    ({"model": la.Model(2, "linear", 0.5, la.Spectrum([1.0, np.nan]))}, errors.InvalidParameter, "model.teacher.spectrum.eigenvalues", "finite"),
    ({"frozen": {"q0": 1.0, "q": 1.0, "m": 0.5}}, errors.Conflict, "frozen", "not together"),
    ({"model": {"tokens": 2, "activation": "linear", "delta": 0.5}}, errors.MissingField, "model.teacher", None),
    ({"options": {"log2_nodes": 99}}, errors.InvalidParameter, "options.log2_nodes", "between 6 and 20"),
    ({"options": {"seed": -1}}, errors.Unreadable, "options.seed", "a whole number"),
    ({"estimator": "best"}, errors.Unreadable, "estimator", "erm"),
    ({"surplus": 1}, errors.Unreadable, "surplus", "model"),
]


@pytest.mark.parametrize(("change", "kind", "field", "allowed"), WRONG)
def test_invalid_input_tells_the_field(
    change: dict[str, Any], kind: type[errors.Error], field: str | None, allowed: str | None
) -> None:
    with pytest.raises(ValueError) as caught:
        la.solve(BASE, **change)
    error = caught.value
    assert type(error) is kind and isinstance(error, errors.InputError)
    assert error.field == field and (allowed is None or allowed in (error.allowed or ""))
    assert "panic" not in str(error) and (field is None or str(error).startswith(field))
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), copied.args, copied.kind, copied.field) == (kind, error.args, error.kind, field)


@pytest.mark.parametrize("scenario", ["", "nonsense", "{}", "[]", "\ud800", None, 3, [], {}, LOOP, {"model": np.zeros(2)}])
def test_what_is_no_scenario_is_refused(scenario: Any) -> None:
    with pytest.raises(errors.InputError):
        la.solve(scenario)
    if isinstance(scenario, str):
        with pytest.raises(errors.InputError):
            la.solve(scenario, pretrain={"alpha": 0.2})


@pytest.mark.parametrize(("text", "field"), [("{", None), ('{"mod', None), ('{"model": {"tokens": 2, ', "model"), ('{"model": {"tokens": ', "model.tokens")])
def test_a_text_that_ends_too_early_names_the_part_in_which_it_ends(text: str, field: str | None) -> None:
    with pytest.raises(errors.Unreadable, match="EOF while parsing") as caught:
        la.solve(text)
    assert caught.value.field == field and "?" not in str(caught.value)


def test_an_invalid_value_is_there_as_a_number() -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        la.solve(BASE, pretrain={"alpha": -0.25, "lambda": 0.1})
    assert caught.value.value == -0.25 and caught.value.kind == "invalid_parameter"
    with pytest.raises(errors.Unreadable) as unreadable:
        la.solve(BASE, pretrain={"alpha": "much", "lambda": 0.1})
    assert "much" in str(unreadable.value.value)


def test_too_much_memory_is_refused_before_anything_is_allocated() -> None:
    model = {**MODEL, "tokens": 8, "activation": "sigmoid"}
    with pytest.raises(errors.TooMuchMemory) as caught:
        la.solve(BASE, model=model, options={"log2_nodes": 20, "scrambles": 8})
    assert caught.value.field == "options.log2_nodes" and "bytes" in (caught.value.allowed or "")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "all", True, 10**9, pytest.param(10**5000, id="huge")])
def test_a_number_of_threads_is_checked(threads: Any) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        la.solve(BASE, threads=threads)
    assert caught.value.field == "threads"


@pytest.mark.parametrize(
    ("axes", "field"),
    [
        ({}, "axes"),
        (3, "axes"),
        ({"pretrain.lambda": []}, "pretrain.lambda"),
        ({"pretrain.lambda": [0.1, np.nan]}, "pretrain.lambda"),
        ({"pretrain.lambda": [0.1, -0.1]}, "pretrain.lambda"),
        ({"pretrain.lambda": [[0.1]]}, "pretrain.lambda"),
        ({"pretrain.lambda": ["a"]}, "pretrain.lambda"),
        ({"pretrain.lambda": [[0.1], [0.1, 0.2]]}, "pretrain.lambda"),
        ({"pretrain.lambada": [0.1]}, "pretrain.lambada"),
        ({"pretrain.alpha": [0.2], "nothing.at.all": [0.1]}, "nothing.at.all"),
        ({"model.activation": [0.1]}, "model.activation"),
        ({"model.tokens": [2.5]}, "model.tokens"),
        ({"lora.lambda": [0.1]}, "lora.lambda"),
        ({"pretrain.lambda": np.ma.masked_less([0.1, 0.2], 0.15)}, "pretrain.lambda"),
        ({"pretrain.lambda": [10**5000]}, "pretrain.lambda"),
        ({3: [0.1]}, "axes"),
    ],
)
def test_an_invalid_axis_tells_the_field(axes: Any, field: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        la.sweep(BASE, axes)
    assert caught.value.field == field


def test_an_axis_of_an_absent_stage_says_so() -> None:
    with pytest.raises(errors.Unreadable, match="the scenario has no `lora`"):
        la.sweep(BASE, {"lora.lambda": [0.1]})
    with pytest.raises(errors.Unreadable, match="the scenario has no `model.teacher.power_law`"):
        la.sweep(BASE, {"model.teacher.power_law.exponent": [1.0]})


#: Calls with a value of a wrong type, and the field that the exception names.
WRONG_CALLS: list[tuple[Callable[[], Any], str | None]] = [
    (lambda: la.solve(BASE, previous=3), "previous"),  # type: ignore[arg-type]
    (lambda: la.solve_many(np.array(0.3)), "scenarios"),  # type: ignore[arg-type]
    (lambda: la.solve_many([BASE], progress=np.ones(2)), "progress"),  # type: ignore[arg-type]
    (lambda: la.solve_many([BASE], errors=[]), "errors"),  # type: ignore[arg-type]
    (lambda: la.optimize(BASE, ["pretrain.errors.test"], {"pretrain.lambda": (0.1, 1.0)}), "target"),  # type: ignore[arg-type]
    (lambda: la.learned_spectrum(BASE, points=2.5), "points"),  # type: ignore[arg-type]
    (lambda: la.learned_spectrum(BASE, points=2**70), "points"),
    (lambda: la.thresholds.collapse(BASE, np.ones(2)), "stage"),  # type: ignore[arg-type]
    (lambda: la.fixed_point(3.0, 1.0), "map"),  # type: ignore[arg-type]
    (lambda: la.fixed_point(lambda x: "a", 1.0), "map"),
    (lambda: la.fixed_point(np.tanh, []), "start"),
    (lambda: la.fixed_point(np.tanh, 1.0, coordinates=3), "coordinates"),  # type: ignore[arg-type]
    (lambda: la.fixed_point(np.tanh, 1.0, tolerance="small"), "tolerance"),  # type: ignore[arg-type]
    (lambda: la.fixed_point(np.tanh, 1.0, method=[]), "method"),  # type: ignore[arg-type]
    (lambda: la.Activation("a", 3.0, np.tanh), "value"),  # type: ignore[arg-type]
    (lambda: la.Activation("a", np.tanh, None), "derivative"),  # type: ignore[arg-type]
    (lambda: la.Activation(3, np.tanh, np.tanh), "name"),  # type: ignore[arg-type]
    (lambda: la.Activation("a", np.tanh, np.multiply).check(2.5), "tokens"),  # type: ignore[arg-type]
    (lambda: la.Activation("a", lambda h: "a", np.multiply).check(), "model.activation"),
    # The adjoint is put together from the derivative, whose shape could be broadcast.
    (lambda: la.Activation("a", np.tanh, lambda h, d: 1.0).check(), "model.activation"),
]


@pytest.mark.parametrize("call", range(len(WRONG_CALLS)))
def test_a_value_of_a_wrong_type_is_refused_everywhere(call: int) -> None:
    wrong, field = WRONG_CALLS[call]
    with pytest.raises(errors.InputError) as caught:
        wrong()
    assert caught.value.field == field


def test_the_other_functions_refuse_invalid_input() -> None:
    refused = pytest.raises(errors.InputError)
    with refused as caught:
        la.optimize(BASE, "pretrain.errors.test", {"pretrain.lambda": (1.0, 0.1)})
    assert caught.value.field == "variable.low"
    with pytest.raises(errors.InputError):
        la.optimize(BASE, "luck", {"pretrain.lambda": (0.1, 1.0)})
    with pytest.raises(errors.InputError):
        la.optimize(BASE, "pretrain.errors.test", {"luck": (0.1, 1.0)})
    with pytest.raises(errors.InputError):
        la.optimize(BASE, "pretrain.errors.test", {"pretrain.lambda": 3})  # type: ignore[dict-item]
    with pytest.raises(errors.MissingField):
        la.optimize(BASE, "lora.errors.test", {"pretrain.lambda": (0.1, 1.0)})
    with pytest.raises(errors.MissingField):
        la.thresholds.collapse(BASE, "lora")
    with pytest.raises(errors.InvalidParameter):
        la.thresholds.collapse(BASE, "middle")  # type: ignore[arg-type]
    with pytest.raises(errors.MissingField):
        la.BayesCurve(BASE)
    with pytest.raises(errors.InvalidParameter) as spectrum:
        la.learned_spectrum(BASE).quantile([0.5, 1.5])
    assert spectrum.value.value == 1.5
    with pytest.raises(errors.InvalidParameter):
        la.learned_spectrum(BASE, points=0)
    with pytest.raises(errors.InvalidParameter) as sizes:
        la.simulate.compare(BASE, {1: 4})
    assert sizes.value.field == "laboratory.sizes.dimension"
    with pytest.raises(errors.Unreadable):
        la.simulate.compare(BASE, [40])  # type: ignore[arg-type]
    with pytest.raises(errors.Unreadable):
        la.solve_many(BASE)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidParameter):
        la.solve_many([BASE], errors="ignore")  # type: ignore[arg-type]


def test_many_scenarios_with_errors_in_their_places() -> None:
    wrong = {**BASE, "pretrain": {"alpha": -1, "lambda": 0.1}}
    narrow = {**BASE, "pretrain": {"alpha": 0.2, "lambda": 0.1, "kappa": 0.01}}
    found = la.solve_many([BASE, wrong, "nonsense", narrow, json.dumps(BASE)], errors="return")
    kinds = [type(one) for one in found]
    assert kinds == [la.Outcome, errors.InvalidParameter, errors.Unreadable, errors.RankDoesNotFit, la.Outcome]
    assert found[0] == found[4] and not found.interrupted
    for scenario, kind in ((wrong, errors.InvalidParameter), (narrow, errors.RankDoesNotFit)):
        with pytest.raises(kind):
            la.solve_many([BASE, scenario])
