"""Tune a generator on preference pairs by DPO with LoRA, and let it answer a question.

    python recipes/train_generator.py preferences/train.parquet Qwen/Qwen3-0.6B adapter

The pairs are those of preferences.py, the adapter loads as `ChatLLM("adapter")`. The same command
runs on a GPU, and under `accelerate launch` on several. `rir-hf train-generator` has all the
options.
"""

import argparse

import rir_hf as rir


def main() -> None:
    """Chain pairs - train_generator - ChatLLM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", help="rows with prompt, chosen, rejected: a file or a folder")
    parser.add_argument("model", help="the generator to start from: Hub name or folder")
    parser.add_argument("output", help="folder for the adapter")
    paths = parser.parse_args()

    pairs = rir.load_rows(paths.pairs)
    adapter = rir.train_generator(pairs, paths.model, paths.output)

    question = pairs[0]["prompt"]
    for name in (paths.model, adapter):
        answer = rir.ChatLLM(name).generate([question], temperature=0, max_tokens=60)[0][0]
        print(f"{name}: {answer}")


if __name__ == "__main__":
    main()
