"""Scenarios that the programs of this folder share."""


def pretraining(activation, tokens, kappa0, alpha, ridge, options=None, **more):
    model = {"tokens": tokens, "activation": activation, "delta": 0.5, "teacher": {"wishart": {"kappa0": kappa0}}}
    stage = {"alpha": alpha} | ({} if ridge is None else {"lambda": ridge})
    return {"model": model, "pretrain": stage, "options": options or {}} | more


def finetuning(activation, tokens, alpha, ridge, options=None):
    model = {"tokens": tokens, "activation": activation, "delta": 0.5}
    frozen = {"q0": 2.0, "q": 1.2, "m": 1.1}
    return {"model": model, "frozen": frozen, "lora": {"alpha": alpha, "lambda": ridge}, "options": options or {}}


def with_seed(scenario, seed):
    return scenario | {"options": scenario.get("options", {}) | {"seed": seed}}
