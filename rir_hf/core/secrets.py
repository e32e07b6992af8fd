"""A text or a record in, the same without keys, tokens and passwords out: by their values, wherever
they stand, and in records by their names too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

HIDDEN = "(not shown)"
"""What stands in a record in place of a secret."""

_MASK = "***"
_NAME = re.compile(
    r"secret|passw|credential|(?:key|(?<!bos_|eos_|pad_|unk_)token|authorization|auth|bearer|cookie)(?:[_-]?\d+)?$",
    re.IGNORECASE,
)
_BETWEEN_WORDS = re.compile(r"([\s,]+)")
_PLAIN_WORD = re.compile(r"[A-Za-z_]+")
_BETWEEN = re.compile(r"[\s\x00-\x1f\x7f]+")
_NO_SECRETS = {"none", "null", "empty", "true", "false"}
_SHORTEST_GIVEN = 4
_SHORTEST_FOUND = 8
_given: set[str] = set()


def keep_secret(*values: str) -> None:
    """From now on `masked` hides these values in this process."""
    _given.update(values)


def masked(text: str, *secrets: str) -> str:
    r"""A text without these secrets, those that were given to `keep_secret`, and those that the
    environment holds under names such as HF_TOKEN, OPENAI_API_KEY or MY_SECRET.

    A secret that white space or control characters surround or divide is hidden part by part, and
    so is its form in a URL.

    Example:
        >>> masked("Illegal header value b'Bearer sk-1234\\n'", "sk-1234\n")
        "Illegal header value b'Bearer ***\\n'"
    """
    return _without(text, _parts_of(*secrets))


def without_secrets(value: Any) -> Any:
    """A record of plain values without secrets: texts are masked, and what bears the name of a key
    or a token is hidden.

    Example:
        >>> without_secrets({"authToken": "sk-1234", "max_tokens": 5})
        {'authToken': '(not shown)', 'max_tokens': 5}
    """
    return _plain_without(value, _parts_of())


def command_without_secrets(command: str) -> str:
    """A command without the values of variables and options that bear the name of a secret.

    Example:
        >>> command_without_secrets("env HF_TOKEN=hf_1 torchrun --hub_token hf_1 --export=A,KEY=b")
        'env HF_TOKEN=(not shown) torchrun --hub_token (not shown) --export=A,KEY=(not shown)'
    """
    parts = _BETWEEN_WORDS.split(command)  # words and what is between, in turn
    before = ""
    for place in range(0, len(parts), 2):
        name, is_set, _ = parts[place].partition("=")
        if is_set and _NAME.search(name):
            parts[place] = f"{name}={HIDDEN}"
        elif _NAME.search(before):
            parts[place] = HIDDEN
        before = "" if is_set else name
    return masked("".join(parts))


def secrets_in(value: Any, name: str = "") -> Iterator[str]:
    """The texts in nested settings that bear the name of a secret, and all that might be one: eight
    characters or more without white space, other than a word of letters.

    Example:
        >>> list(secrets_in({"bearer": "sesame", "top_k": 5, "more": ["json_object", "a1-b2-c3"]}))
        ['sesame', 'a1-b2-c3']
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets_in(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from secrets_in(item, name)
    elif isinstance(value, str) and (_NAME.search(name) or _might_be_one(value)):
        yield value


def _parts_of(*secrets: str) -> list[str]:
    """What is hidden now, the longest first; read from the environment once for many texts."""
    found = _long_parts([*secrets, *_given], _SHORTEST_GIVEN)
    found |= _long_parts(_of_environment(), _SHORTEST_FOUND)
    parts = sorted(found, key=len, reverse=True)
    return [form for part in parts for form in dict.fromkeys((part, quote(part, safe="")))]


def _without(text: str, parts: Sequence[str]) -> str:
    for part in parts:
        text = text.replace(part, _MASK)
    return text


def _plain_without(value: Any, parts: Sequence[str]) -> Any:
    """`without_secrets`, with what is hidden."""
    if isinstance(value, str):
        return _without(value, parts)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN
            if _NAME.search(str(name)) and item is not None
            else _plain_without(item, parts)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain_without(item, parts) for item in value]
    return value


def _might_be_one(text: str) -> bool:
    is_one_word = len(text) >= _SHORTEST_FOUND and not _BETWEEN.search(text)
    return is_one_word and not _PLAIN_WORD.fullmatch(text)


def _of_environment() -> list[str]:
    return [value for name, value in os.environ.items() if _NAME.search(name)]


def _long_parts(secrets: Iterable[str], shortest: int) -> set[str]:
    parts = {part for secret in secrets for part in _BETWEEN.split(secret)}
    return {part for part in parts if len(part) >= shortest and part.lower() not in _NO_SECRETS}
