"""A text in, what of it counts when it is compared or shown out."""

from __future__ import annotations

import unicodedata

_CHARACTERS = 5
# Length of a shingle. Characters, since Chinese and Thai do not mark words, and since words are too
# coarse for short queries: of SciFact's 242,700 pairs of a test and a training claim 52 share 0.8
# of their runs of five characters, each a claim with a word or two changed; only 6 share as many
# runs of three words. Of XQuAD's 1,190 questions 7 pairs do, 5 of them the same text. Unrelated
# texts are far from that: of SciFact's abstracts no two share 0.4, and 99.6 % of pairs less than
# 0.1 (November 2026).


def plain(text: str | None) -> str:
    r"""A text without what makes no difference: case, white space, and the ways to write a
    character.

    Example:
        >>> plain("  Cats\n PURR. "), plain(None)
        ('cats purr.', '')
    """
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())


def is_whole(text: str) -> bool:
    r"""Whether a text has no half of a surrogate pair, such as half an emoji, in it: nothing can
    store, show or read one.

    Example:
        >>> is_whole("\U0001f600"), is_whole("\ud83d")
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(text: str) -> str:
    r"""The text with the replacement character in place of each half of a surrogate pair.

    Example:
        >>> whole("one \ud83d") == "one \ufffd"
        True
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shingles_of(text: str | None) -> set[str]:
    """All runs of five characters of a text in its plain form; a shorter text is one itself.

    Example:
        >>> sorted(shingles_of("Hamlet")), shingles_of("Rex")
        (['amlet', 'hamle'], {'rex'})
    """
    return runs_in(plain(text))


def runs_in(text: str) -> set[str]:
    """The shingles of a text that is in its plain form."""
    ends = range(max(1, len(text) - _CHARACTERS + 1))
    return {text[start : start + _CHARACTERS] for start in ends}


def printable(text: str) -> str:
    r"""A text without control characters, so that it can steer no terminal.

    Example:
        >>> printable("Stop\x1b[2J it"), printable("a\nb")
        ('Stop [2J it', 'a b')
    """
    return "".join(char if char.isprintable() else " " for char in text)


def on_one_line(text: str) -> str:
    r"""A text without control characters, line breaks and repeated spaces.

    Example:
        >>> on_one_line(" Stop\n  it ")
        'Stop it'
    """
    return " ".join(printable(text).split())
