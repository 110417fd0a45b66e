"""What happens when an attention layer is pre-trained on plenty of data and then adapted with LoRA on little.

Predictions in the high-dimensional limit, in milliseconds to seconds: give the amounts of data, the noise and the ridges; get the
errors of both stages, the alignment of the learned weights with the true ones, and whether the prediction is to be trusted.

>>> import lora_asymptotics as la
>>> outcome = la.solve(
...     model=la.Model(tokens=2, activation="linear", delta=0.5, teacher=la.Wishart(kappa0=0.5)),
...     pretrain=la.Pretrain(alpha=0.2, lambda_=0.1),
...     lora=la.Lora(alpha=3.0, lambda_=0.2, sequences="reused"),
... )
>>> round(outcome.lora.errors.test, 3), outcome.lora.validity.verdict
(0.73, 'good')

``solve``, ``solve_many`` and ``sweep`` predict (``distributed.sweep`` on a cluster); ``optimize`` and ``best_split`` prescribe; ``thresholds``, ``BayesCurve`` and
``learned_spectrum`` say what lies behind; ``simulate.compare`` trains networks; ``fixed_point`` and ``Activation`` take functions
of your own; ``plot`` draws (with matplotlib).
"""

from . import distributed, errors, simulate, thresholds
from ._native import __version__
from .activation import Activation
from .bayes import BayesCurve
from .fixed_points import FixedPoint, fixed_point
from .outcome import Outcome
from .prescriptions import Optimum, best_split, optimize
from .schema import (
    Active,
    Frozen,
    Lora,
    Model,
    Options,
    PowerLaw,
    Pretrain,
    Scenario,
    Spectrum,
    Wishart,
)
from .solving import Outcomes, Sweep, solve, solve_many, sweep
from .spectrum import LearnedSpectrum, learned_spectrum

__all__ = [
    "Activation",
    "Active",
    "BayesCurve",
    "FixedPoint",
    "Frozen",
    "LearnedSpectrum",
    "Lora",
    "Model",
    "Optimum",
    "Options",
    "Outcome",
    "Outcomes",
    "PowerLaw",
    "Pretrain",
    "Scenario",
    "Spectrum",
    "Sweep",
    "Wishart",
    "__version__",
    "best_split",
    "distributed",
    "errors",
    "fixed_point",
    "learned_spectrum",
    "optimize",
    "simulate",
    "solve",
    "solve_many",
    "sweep",
    "thresholds",
]
