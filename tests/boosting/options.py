"""Options of a small run, for tests of single stages."""

from __future__ import annotations

from typing import Any

from rir_hf.boosting.options import Options


def options_of(**changes: Any) -> Options:
    """Options of a run without a generator, but for what is changed."""
    settings: dict[str, Any] = {
        "task": None,
        "language": None,
        "passages": 1000,
        "queries_per_passage": 1,
        "written": 1000,
        "kinds": ("sentence", "title"),
        "word_dropout": 0.0,
        "repeat_queries": 1,
        "min_quality": None,
        "examples": (),
        "answers": 0,
        "answer_words": 60,
        "require_gain": True,
        "candidates": 4,
        "max_steps": None,
        "keep": 0.0,
        "training": {"freeze_passages": False, "epochs": 2, "batch_size": 8},
        "tuning": {},
        "checkpoint_steps": 25,
        "launch": None,
        "seed": 0,
    }
    return Options(**{**settings, **changes})
