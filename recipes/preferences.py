"""Preference pairs for a generator, from a corpus alone: the retriever judges what it writes.

    python recipes/preferences.py corpus.jsonl Qwen/Qwen3-8B BAAI/bge-base-en-v1.5 preferences

The corpus has the columns id and text. The output holds every row (rows/, for `load_from_disk`; one
without a pair says why) and train.parquet for train_generator.py or `trl dpo`. A killed run goes on
where it was. `rir-hf generate-queries`, `generate-answers` and `preferences` have all the options.
"""

import argparse
from pathlib import Path

import rir_hf as rir


def main() -> None:
    """Chain corpus - GenerateQueries - unnest - GenerateAnswers - PreferencePairs - to_trl."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="passages: a file, a folder or a Hub name")
    parser.add_argument("llm", help="the generator: Hub name or folder of a chat model")
    parser.add_argument("retriever", help="the judge: Hub name or folder")
    parser.add_argument("output", type=Path, help="folder for the pairs")
    paths = parser.parse_args()

    llm = rir.ChatLLM(paths.llm)
    corpus = rir.load_corpus(paths.corpus)
    generated = rir.run(corpus, rir.GenerateQueries(llm), batch_size=64)
    print(rir.as_table(rir.report(generated)))

    pairs = rir.unnest(generated, {"queries": "query"})
    answered = rir.run(pairs, rir.GenerateAnswers(llm, n=4), batch_size=64)
    preferred = rir.run(answered, rir.PreferencePairs(rir.Retriever(paths.retriever)))
    print(rir.as_table(rir.report(preferred)))
    preferred.save_to_disk(paths.output / "rows")
    rir.to_trl(preferred, paths.output / "train.parquet")


if __name__ == "__main__":
    main()
