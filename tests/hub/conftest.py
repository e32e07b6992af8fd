"""What the tests of the Hub share: tries without waiting, rows, and what a repository holds."""

from __future__ import annotations

import threading
import time

import pytest
from datasets import Dataset, Features, Value

from rir_hf.schema import SKIP_RULES
from tests.hub_server import HubServer

REPO = "me/data"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between tries; the server keeps its delays."""
    sleep = time.sleep

    def sleep_as_server(seconds: float) -> None:
        is_server = "process_request" in threading.current_thread().name
        sleep(seconds if is_server else min(seconds, 0.01))

    monkeypatch.setattr(time, "sleep", sleep_as_server)


@pytest.fixture
def mined() -> Dataset:
    """Three mined rows."""
    numbers = range(3)
    return Dataset.from_dict(
        {
            "query": [f"query {number}" for number in numbers],
            "pos": [[f"passage {number}"] for number in numbers],
            "pos_sims": [[0.9]] * 3,
            "pos_rank": list(numbers),
            "neg": [["a", "b"]] * 3,
            "neg_sims": [[0.7, 0.5]] * 3,
            "neg_note": [None, None, "corpus_exhausted"],
            "neg_skipped": [dict.fromkeys(SKIP_RULES, 1)] * 3,
        }
    )


def rows_of(text: str, number: int = 3) -> Dataset:
    """Rows that differ by a text."""
    ids = [f"{text}-{row}" for row in range(number)]
    texts = Features({"id": Value("string"), "text": Value("string")})
    return Dataset.from_dict({"id": ids, "text": [text] * number}, features=texts)


def files_of(hub: HubServer, repo: str = REPO) -> dict[str, bytes]:
    """What the main branch of a repository holds."""
    return dict(hub.repositories[repo].files)
