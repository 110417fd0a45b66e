"""Errors, which tell the field, its value and what is allowed.

========================= =========================== ================================================================
exception                 ``kind``                    meaning
========================= =========================== ================================================================
:class:`InvalidParameter` ``invalid_parameter``       a number is outside its range
:class:`MissingField`     ``missing_field``           a field that the request needs was not given
:class:`Conflict`         ``conflict``                two fields exclude each other
:class:`RankDoesNotFit`   ``rank_does_not_fit``       the student is narrower than what it learns
:class:`TooMuchMemory`    ``too_much_memory``         the nodes would take more memory than allowed
:class:`Unreadable`       ``syntax``                  broken JSON, an unknown field, a value of the wrong type
:class:`Disagreement`     ``disagreement``            an activation whose derivative is not that of its value
:class:`OtherJournal`     ``journal``                 a file that holds the records of another calculation
:class:`NotConverged`     ``not_converged``           a calculation needs a stage that has no fixed point
:class:`NoOptimum`        ``no_optimum``              no point of an optimisation can be used
:class:`ThreadsRefused`   ``threads``                 the operating system does not start threads
========================= =========================== ================================================================

All but the last three are :class:`InputError` and with it ``ValueError``. Programs tell errors apart by class or ``kind``, never by
their text. A solve that does not converge is not an error: ``status`` tells.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Base of all errors of this package."""

    #: Stable name of the error, as on the lines of the command-line programs.
    kind: str
    #: Path of the field in the schema (``lora.alpha``), or ``None`` where no single field is wrong.
    field: str | None
    #: The value that was given, if it is known.
    value: Any
    #: What is allowed, in words, if it is known.
    allowed: str | None

    def __init__(
        self,
        message: str,
        kind: str = "",
        field: str | None = None,
        value: Any = None,
        allowed: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type[Error], tuple[Any, ...]]:
        return type(self), (str(self), self.kind, self.field, self.value, self.allowed)


class InputError(Error, ValueError):
    """The input is not valid."""


class InvalidParameter(InputError):
    """A number is outside its range."""


class MissingField(InputError):
    """A field that the request needs was not given."""


class Conflict(InputError):
    """Two fields exclude each other."""


class RankDoesNotFit(InputError):
    """The learned rank fraction exceeds ``pretrain.kappa``, the width of the student."""


class TooMuchMemory(InputError):
    """The nodes of the averages would take more memory than allowed."""


class Unreadable(InputError):
    """The input is not a scenario: broken JSON, an unknown field, a value of the wrong type."""


class Disagreement(InputError):
    """An activation does not agree with its derivative, or breaks a promise."""


class OtherJournal(InputError):
    """A file holds the records of another calculation, or no records, and was left as it is."""


class NotConverged(Error, RuntimeError):
    """A calculation needs a stage that has no fixed point; ``value`` is its status."""


class NoOptimum(Error, RuntimeError):
    """An optimisation found no point that can be used."""


class ThreadsRefused(Error, RuntimeError):
    """The operating system does not start threads."""


_CLASSES: dict[str, type[Error]] = {
    "invalid_parameter": InvalidParameter,
    "missing_field": MissingField,
    "conflict": Conflict,
    "rank_does_not_fit": RankDoesNotFit,
    "too_much_memory": TooMuchMemory,
    "syntax": Unreadable,
    "journal": OtherJournal,
    "not_converged": NotConverged,
    "no_optimum": NoOptimum,
    "threads": ThreadsRefused,
}


def from_native(
    kind: str, message: str, field: str | None, value: str | None, allowed: str | None
) -> Error:
    """The exception of an error of the Rust library. The extension module calls this function."""
    return _CLASSES.get(kind, Error)(message, kind, field, _number(value), allowed)


def _number(value: str | None) -> Any:
    """The number that a text stands for, or the text."""
    for parse in (int, float):
        try:
            return parse(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return value


def _told(value: Any) -> str:
    """The beginning of what a value looks like."""
    try:
        return f"{value!r:.200}"
    except Exception:
        # Python does not write integers of thousands of digits, and the class of a user may fail.
        return f"<{type(value).__name__}>"


def invalid(field: str, value: Any, allowed: str) -> InvalidParameter:
    return InvalidParameter(f"{field} = {_told(value)}: must be {allowed}", "invalid_parameter", field, value, allowed)


def unreadable(field: str, value: Any, allowed: str) -> Unreadable:
    name = field or "scenario"
    return Unreadable(f"{name} is {type(value).__name__}: must be {allowed}", "syntax", field or None, value, allowed)
