"""Let a language model and the retriever score mined rows together, and relabel false negatives.

    python recipes/distill.py mined Qwen/Qwen3-8B scored

The rows are those of mine.py, the output is for `load_from_disk` and train_retriever.py, with
train.jsonl for FlagEmbedding beside it. A killed run goes on where it was. `rir-hf score` and
`rir-hf relabel` have all the options.
"""

import argparse
from pathlib import Path

import rir_hf as rir


def main() -> None:
    """Chain mined rows - ScorePassages - RelabelNegatives - report - to_flagembedding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", help="mined rows: a folder, a file or a Hub name")
    parser.add_argument("llm", help="the teacher: Hub name or folder of a chat model")
    parser.add_argument("output", type=Path, help="folder for the scored rows")
    paths = parser.parse_args()

    mined = rir.load_rows(paths.rows)
    teacher = rir.Blend([rir.QueryLikelihood(rir.ChatLLM(paths.llm)), rir.Similarities()])
    scored = rir.run(mined, rir.ScorePassages(teacher), batch_size=64)
    print(rir.as_table(rir.report(scored)))

    # Above the weakest positive a negative is not safe; from 1.0 more on it becomes a positive
    relabelled = scored.map(rir.RelabelNegatives(move=1.0, drop=0.0), batched=True)
    relabelled.save_to_disk(paths.output)
    rir.to_flagembedding(relabelled, paths.output / "train.jsonl")


if __name__ == "__main__":
    main()
