"""Activations of your own, as functions of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native
from .errors import Disagreement, invalid, unreadable

__all__ = ["Activation"]

Array = NDArray[np.float64]
#: A function of logits.
Value = Callable[[Array], ArrayLike]
#: A function of logits and a direction or weights.
Along = Callable[[Array, Array], ArrayLike]


class Activation:
    """An attention non-linearity ``sigma`` that maps logits ``h`` to the attention matrix.

    Every function works on a batch: logits of shape ``(n, T, T)``, ``n`` sequences of ``T`` tokens, already multiplied by the inverse
    temperature. The number ``n`` varies from call to call, and the result for one sequence must not depend on the others.

    ``value(h)``
        ``sigma(h)``, of the shape of ``h``.
    ``derivative(h, d)``
        The derivative of ``sigma`` along ``d``, ``sum_cd (d sigma_ab / d h_cd) d_cd``, of the same shape.
    ``adjoint(h, w)``
        The gradient of ``sum_ab w_ab sigma_ab(h)``. If it is not given, it is put together from ``T^2`` calls of the derivative.
    ``second_derivative(h, w, d)``
        The derivative of the adjoint along ``d``. Searches are Newton's method with it, and Gauss-Newton steps without.

    Where every entry of ``sigma(h)`` depends on its own logit alone, :meth:`elementwise` takes ``sigma`` and ``sigma'``.

    The keywords are promises: ``parity`` is ``"odd"``, ``"even"`` or ``"neither"``; ``ignores_row_shifts`` says that a number added to
    a row of logits changes nothing; ``invertible``, that ``sigma(h)`` determines what it sees of ``h``, so that Bayes-optimal
    bounds exist; ``bounded``, that the derivative of the loss is; ``inverse_temperature``, that ``sigma(b h)`` is not
    ``b sigma(h)``. Values and derivatives are compared with finite differences before the first solve.

    >>> import numpy as np
    >>> tanh = Activation.elementwise("tanh", np.tanh, lambda h: 1 - np.tanh(h) ** 2, parity="odd", invertible=True)
    >>> tanh.check(tokens=2)
    """

    def __init__(
        self,
        name: str,
        value: Value,
        derivative: Along,
        *,
        adjoint: Along | None = None,
        second_derivative: Callable[[Array, Array, Array], ArrayLike] | None = None,
        parity: Literal["odd", "even", "neither"] = "neither",
        ignores_row_shifts: bool = False,
        invertible: bool = False,
        bounded: bool = True,
        inverse_temperature: bool = True,
    ) -> None:
        if not isinstance(parity, str) or parity not in ("odd", "even", "neither"):
            raise invalid("parity", parity, "odd, even or neither")
        if not isinstance(name, str):
            raise unreadable("name", name, "a text")
        given = {"value": value, "derivative": derivative, "adjoint": adjoint, "second_derivative": second_derivative}
        for field, one in given.items():
            if not (callable(one) or (one is None and field in ("adjoint", "second_derivative"))):
                raise unreadable(field, one, "a function")
        self.name = name
        self.value = value
        self.derivative_along = derivative
        self.adjoint_of = adjoint
        self.second_derivative_of = second_derivative
        self.parity = parity
        self.ignores_row_shifts = bool(ignores_row_shifts)
        self.invertible = bool(invertible)
        self.bounded = bool(bounded)
        self.inverse_temperature = bool(inverse_temperature)
        self.has_adjoint = adjoint is not None
        self.has_second_derivative = second_derivative is not None
        self._checked: set[int] = set()

    @classmethod
    def elementwise(
        cls,
        name: str,
        value: Value,
        derivative: Value,
        second_derivative: Value | None = None,
        **promises: Any,
    ) -> Activation:
        """An activation of every logit by itself, from ``sigma(h)``, ``sigma'(h)`` and, if known, ``sigma''(h)``."""

        def along(h: Array, d: Array) -> ArrayLike:
            return np.asarray(derivative(h)) * d

        def second(h: Array, w: Array, d: Array) -> ArrayLike:
            assert second_derivative is not None
            return np.asarray(second_derivative(h)) * w * d

        return cls(
            name,
            value,
            along,
            adjoint=along,
            second_derivative=None if second_derivative is None else second,
            **promises,
        )

    def check(self, tokens: int = 2) -> None:
        """Compares derivatives with finite differences, and promises with values.

        Raises :class:`~lora_asymptotics.errors.Disagreement` with the first method that is wrong.
        """
        if isinstance(tokens, bool) or not isinstance(tokens, (int, np.integer)) or not 1 <= tokens <= 8:
            raise invalid("tokens", tokens, "a whole number between 1 and 8")
        if tokens in self._checked:
            return
        found = _native.check_activation(_Adapter(self), tokens)
        if found is not None:
            raise Disagreement(f"{self.name}: {found}", "disagreement", "model.activation", self.name)
        self._checked.add(tokens)

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


class _Adapter:
    """An activation as the extension module calls it: arrays are bytes."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        for promise in (
            "name",
            "parity",
            "ignores_row_shifts",
            "invertible",
            "bounded",
            "inverse_temperature",
            "has_adjoint",
            "has_second_derivative",
        ):
            setattr(self, promise, getattr(activation, promise))

    def attention(self, tokens: int, arrays: Sequence[bytes]) -> bytes:
        (h,) = _matrices(tokens, arrays)
        return _bytes(self._activation.value(h), h)

    def derivative(self, tokens: int, arrays: Sequence[bytes]) -> bytes:
        h, d = _matrices(tokens, arrays)
        return _bytes(self._activation.derivative_along(h, d), h)

    def adjoint(self, tokens: int, arrays: Sequence[bytes]) -> bytes:
        h, w = _matrices(tokens, arrays)
        assert self._activation.adjoint_of is not None
        return _bytes(self._activation.adjoint_of(h, w), h)

    def adjoint_by_columns(self, tokens: int, arrays: Sequence[bytes]) -> bytes:
        h, w = _matrices(tokens, arrays)
        image = np.empty_like(h)
        for c in range(tokens):
            for d in range(tokens):
                unit = np.zeros_like(h)
                unit[:, c, d] = 1.0
                along = _shaped(self._activation.derivative_along(h, unit), h)
                image[:, c, d] = (w * along).sum(axis=(1, 2))
        return image.tobytes()

    def second_derivative(self, tokens: int, arrays: Sequence[bytes]) -> bytes:
        h, w, d = _matrices(tokens, arrays)
        assert self._activation.second_derivative_of is not None
        return _bytes(self._activation.second_derivative_of(h, w, d), h)


def adapter(activation: Activation | None) -> Union[_Adapter, None]:
    return None if activation is None else _Adapter(activation)


def _matrices(tokens: int, arrays: Sequence[bytes]) -> list[Array]:
    return [np.frombuffer(array).reshape(-1, tokens, tokens) for array in arrays]


def _bytes(result: ArrayLike, logits: Array) -> bytes:
    return _shaped(result, logits).tobytes()


def _shaped(result: ArrayLike, logits: Array) -> Array:
    """What a function of the user returns, which has the shape of the logits."""
    try:
        array = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError):
        raise unreadable("model.activation", result, "an array of numbers") from None
    if array.shape != logits.shape:
        raise invalid("model.activation", array.shape, f"an array of the shape of the logits, {logits.shape}")
    return array
