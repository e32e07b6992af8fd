"""Every regular expression of the package takes time in proportion to the text."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rir_hf

_LENGTH = 40_000
_PATIENCE = 400
"""How many times as long as a plain look at every character a search may take."""

# What the expressions look for, by which they could be led astray, many times over.
_PIECES = [
    " ", "\n", "\t", "a", "A1", "1", "1.", "1. 1", "\n1. ", "\n 1) 2", "[", "[1", "[1] > ", "]",
    "<", "<think>", "</think", "</think>", "<top>", "<num>", "<num> ", "<title>", "here is ",
    "following ", "here are: ", "sure ", "query", "query: ", "query 1", "question :", "* ",
    "**", "- ", "yes ", "no", "not ", "yes. ", "`", "\"", "\\", "\\ud83d", "\\\\", "KEY",
    "KEY=", "_TOKEN", "content:", "x@1", "Number:", "Topic:", ".", ". ", "? ", "\u3002",
    "\u0e01", "e\u0301", "'", "Parser key \"", ", ",
]  # fmt: skip


class Use(NamedTuple):
    """An expression, and the method that it is used with."""

    name: str
    compiled: re.Pattern[Any]
    method: str


def uses() -> Iterator[Use]:
    """Each use of an expression in the package that names it, or has it in a call of `re`."""
    for found in pkgutil.walk_packages(rir_hf.__path__, "rir_hf."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            own = getattr(module, ast.unparse(node.func.value), None)
            if isinstance(own, re.Pattern):
                yield Use(f"{found.name}:{node.lineno}", own, node.func.attr)
            elif own is re and node.func.attr != "compile" and is_text(node.args[:1]):
                compiled = re.compile(ast.literal_eval(node.args[0]), re.DOTALL)
                yield Use(f"{found.name}:{node.lineno}", compiled, node.func.attr)


def is_text(arguments: list[ast.expr]) -> bool:
    return bool(arguments) and isinstance(arguments[0], ast.Constant)


USES = list(uses())


def test_the_expressions_are_found() -> None:
    names = [use.name.partition(":")[0] for use in USES]
    assert {"rir_hf.teaching.parsing", "rir_hf.data.layouts", "rir_hf.core.secrets"} <= {*names}


@pytest.mark.parametrize("use", USES, ids=[use.name for use in USES])
def test_no_text_makes_an_expression_slow(use: Use) -> None:
    patience = _PATIENCE * max(_plain_seconds() for _ in range(3))
    for piece in _PIECES:
        text: Any = "a" + piece * (_LENGTH // len(piece)) + "\n!"
        if isinstance(use.compiled.pattern, bytes):
            text = text.encode("utf-8", "replace")
        assert _seconds(use, text) < patience, piece


def _seconds(use: Use, text: Any) -> float:
    start = time.perf_counter()
    for given in (text[1:-2], text):
        if use.method in ("match", "fullmatch"):
            getattr(use.compiled, use.method)(given)
        else:
            deque(use.compiled.finditer(given), 0)
    return time.perf_counter() - start


def _plain_seconds() -> float:
    """How long a look at each of so many characters takes, in the same run."""
    start = time.perf_counter()
    deque(re.finditer(".", "a" * _LENGTH), 0)
    return time.perf_counter() - start
