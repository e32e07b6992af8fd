"""`python -m tests.hostile`: what became of each hostile text at each place, counted."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter

import tests.conftest  # noqa: F401 - nothing leaves this machine, all is written below /tmp
from tests.hostile.cases import PLACES, TEXTS, Place, Text

_KEPT = ("kept", "mended", "refused")


def outcome(place: Place, text: Text) -> str:
    """In one word what happened, and whether it was what the table says."""
    try:
        seen = place.put(text.text)
    except (UnicodeError, AssertionError) as error:
        return f"raw error ({type(error).__name__})"
    except (ValueError, TypeError):
        return "clear error"
    except Exception as error:
        return f"raw error ({type(error).__name__})"
    if seen.startswith(("lost", "steers", "runs", "endless")):
        return "lost"
    if seen.startswith("error"):
        return "clear error"
    return "survived" if seen in _KEPT else "marked"


def main() -> None:
    """Print how many cases had which outcome."""
    logging.lastResort = None
    for name in ("datasets", "huggingface_hub", "transformers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    counts = Counter(outcome(place, text) for place in PLACES for text in TEXTS)
    for name, count in counts.most_common():
        sys.stdout.write(f"{count:6} {name}\n")
    sys.stdout.write(f"{sum(counts.values()):6} in all\n")


if __name__ == "__main__":
    main()
