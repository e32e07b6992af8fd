"""`rir-hf evaluate`: a retriever or a run and judgements in, the measures out."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def command() -> None:
    """Evaluate."""
