"""The options of a trainer's call, checked before anything is loaded."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import EnumMeta
from functools import wraps
from inspect import Parameter, signature
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from rir_hf.core.columns import check_at_least, check_choice

P = ParamSpec("P")
R = TypeVar("R")

_LEAST = {
    **dict.fromkeys(("accumulate", "batch_size", "checkpoint_steps", "logging_steps"), 1),
    **dict.fromkeys(("lora_r", "max_length", "max_steps", "mini_batch_size", "train_length"), 1),
    **dict.fromkeys(("learning_rate", "num_negatives", "seed", "warmup_steps"), 0),
}
_ABOVE_0 = ("beta", "epochs", "eval_steps", "scale", "teacher_temperature", "temperature")
_BELOW_1 = ("keep", "lora_dropout")


def checking(
    check: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function call another one with its options first, and take what that returns."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> R:
            return function(*args, **check(options))

        return checked

    return decorated


def require_extra(*packages: str) -> None:
    """Raise `ImportError`, naming the extra, where a package that trainers need is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'Training needs {package}: pip install "rir-hf[train]"')


def checked_options(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a function, with the numbers among them that were given as texts made numbers.

    Raises:
        ValueError: one that the function does not have, of another type, or out of range.

    Example:
        >>> def train(rows: list, *, learning_rate: float = 1e-5, epochs: float = 1): ...
        >>> checked_options(train, {"learning_rate": "3e-5"})
        {'learning_rate': 3e-05}
        >>> checked_options(train, {"epochs": "two"})
        Traceback (most recent call last):
        ValueError: train: epochs must be a number, got 'two'.
    """
    who, hints = function.__name__, get_type_hints(function)
    hints.pop("return", None)
    found = {}
    for name, value in options.items():
        if name not in hints:
            raise ValueError(f"{who} has no option {name!r}, only {sorted(hints)}.")
        found[name] = of_type(value, hints[name], f"{who}: {name}")
        if found[name] is not None:
            _check_range(name, found[name], f"{who}: {name}")
    return found


def with_defaults(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a function, with the defaults of those that are not given.

    Example:
        >>> with_defaults(lambda rows, *, epochs=1, seed=0: None, {"seed": 2})
        {'epochs': 1, 'seed': 2}
    """
    parameters = signature(function).parameters.values()
    usual = {each.name: each.default for each in parameters if each.default != Parameter.empty}
    return {**usual, **options}


def of_type(value: Any, hint: Any, what: str) -> Any:
    """A value as its type hint asks for it.

    Args:
        value: numbers may be given as texts: YAML reads `3e-5` as one.
        hint: the type hint. Of types that are not plain, any value passes.
        what: it is, for the error.

    Raises:
        ValueError: a value of another type, or none of the choices.

    Example:
        >>> of_type("3e-5", float, "learning_rate"), of_type("1e3", int | None, "max_steps")
        (3e-05, 1000)
    """
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(member) or member for member in members}
    if value is None and NoneType in kinds:
        return None
    if kinds <= {bool, int, float, NoneType}:
        return _number(value, kinds, what)
    if kinds <= {str, os.PathLike, NoneType} and not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{what} must be a text, got {value!r:.80}.")
    if kinds <= {Mapping, NoneType} and not isinstance(value, Mapping):
        raise ValueError(f"{what} must be settings by name, got {value!r:.80}.")
    _check_choices(value, members, what)
    return value


def _number(value: Any, kinds: set[Any], what: str) -> Any:
    """A number, or true or false, of one of these types; `ValueError` where it is none."""
    if isinstance(value, bool) and bool in kinds:
        return value
    number = value
    if isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    is_whole = is_number and math.isfinite(number) and float(number).is_integer()
    if float in kinds and is_number and math.isfinite(number):
        return number
    if int in kinds and is_whole:
        return int(number)
    named = {float: "a number", int: "a whole number", bool: "true or false"}
    wanted = next(name for kind, name in named.items() if kind in kinds)
    raise ValueError(f"{what} must be {wanted}, got {value!r:.80}.")


def _check_choices(value: Any, members: tuple[Any, ...], what: str) -> None:
    """`ValueError` for a text that is none of the choices of a type, or a mapping to one."""
    choices = [name for each in members if get_origin(each) is Literal for name in get_args(each)]
    if choices and str not in members:
        for name in value.values() if isinstance(value, Mapping) else [value]:
            check_choice(what, name, choices)
    for kind in members:
        if isinstance(kind, EnumMeta) and isinstance(value, str):
            check_choice(what, value, [each.value for each in kind])  # type: ignore[var-annotated]


def _check_range(name: str, value: Any, what: str) -> None:
    """`ValueError` for a number that is too small or too large."""
    if name in _LEAST:
        check_at_least(what, value, _LEAST[name])
    if name in _ABOVE_0 and not value > 0:
        raise ValueError(f"{what} must be above 0, got {value}.")
    if name in _BELOW_1 and not 0 <= value < 1:
        raise ValueError(f"{what} must be at least 0 and below 1, got {value}.")
