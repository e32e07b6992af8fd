"""Add a teacher's scores to rows of query, pos and neg, and write them back.

    python recipes/distill.py --dataset_path data --output_dir scored --generate_model_path Qwen/Qwen3-8B --method yes_no
    python recipes/distill.py --dataset_path data --model_type gpt --generate_model_path gpt-4.1-mini --dataset_name scifact

--dataset_path holds a folder per dataset, each with a train.jsonl (or is such a folder itself). The scores go into train.jsonl in
--output_dir, by default in place. A file is replaced at once when it is complete, so a killed run leaves the old one. Rows that
this very teacher has scored keep their scores, so that a second run asks only for those that failed; --overwrite asks for all.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from rir_hf import ScorePassages, as_table, load_rows, report_teacher
from rir_hf.export import write_lines

from _options import add_engine, add_llm, add_push, check_llm, load_llm, log_plainly, push_rows, run_map

FILE = "train.jsonl"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder of folders with a train.jsonl")
    parser.add_argument("--dataset_name", help="the one dataset to score (default: all of them)")
    parser.add_argument("--output_dir", type=Path, help="where the scored files go (default: the dataset's own folder)")
    add_llm(parser, "teacher")
    parser.add_argument(
        "--method", default="listwise",
        choices=["listwise", "listwise_logits", "yes_no", "query_likelihood", "cross_encoder"],
        help="how the teacher is asked; query_likelihood suits small models (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--prompt", help="another prompt, with the fields {query} and {passage} or {passages}")
    parser.add_argument("--temperature", type=float, default=0.2, help="of listwise answers (default: %(default)s)")
    parser.add_argument("--top_p", type=float, default=1.0, help="of listwise answers (default: %(default)s)")
    parser.add_argument("--max_tokens", type=int, default=300, help="longest listwise answer (default: %(default)s)")
    parser.add_argument("--window", type=int, default=20, help="passages ranked at a time (default: %(default)s)")
    parser.add_argument("--step", type=int, help="passages the window moves by (default: half a window)")
    parser.add_argument("--shuffles", type=int, default=1, help="orders each list is shown in (default: %(default)s)")
    parser.add_argument("--max_passage_tokens", type=int, default=512, help="passages are cut to this (default: %(default)s)")
    parser.add_argument("--blend_retriever", action="store_true", help="add z-scores of pos_sims and neg_sims")
    parser.add_argument("--seed", type=int, default=0, help="of orders and draws (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=256, help="rows per batch (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="ask again for what this teacher has scored")
    add_engine(parser, 1000)
    add_push(parser, "scored")
    options = parser.parse_args()
    check_llm(parser, options)
    if not 1 <= (options.step or 1) <= options.window:
        parser.error("--step must lie between 1 and --window")
    return options


def find_datasets(path: Path, name: str | None) -> list[Path]:
    """The folders that hold a train.jsonl."""
    if path.name == FILE:
        path = path.parent
    if name is not None:
        found = [path / name]
    else:
        found = [path] if (path / FILE).exists() else sorted(file.parent for file in path.glob(f"*/{FILE}"))
    missing = [folder for folder in found if not (folder / FILE).exists()]
    if missing or not found:
        raise SystemExit(f"No {FILE} in {missing[0] if missing else f'{path} or a folder below it'}")
    return found


def main() -> None:
    """Score each dataset."""
    options = arguments()
    log_plainly()
    settings = (
        "method",
        "prompt",
        "temperature",
        "top_p",
        "max_tokens",
        "window",
        "step",
        "shuffles",
        "max_passage_tokens",
        "seed",
    )
    score = ScorePassages(
        options.generate_model_path if options.method == "cross_encoder" else load_llm(options),
        blend_retriever=options.blend_retriever,
        keep_scored=not options.overwrite,
        **{name: getattr(options, name) for name in settings},
    )
    folders = find_datasets(options.dataset_path, options.dataset_name)
    for folder in folders:
        scored = run_map(load_rows(folder / FILE), score, options, options.batch_size, folder.name)
        target = (options.output_dir / folder.name if options.output_dir else folder) / FILE
        write_lines(scored, target)
        push_rows(scored, options, options.hub_config if len(folders) == 1 else f"{options.hub_config}-{folder.name}")
        logging.info("%s: %d rows in %s\n%s", folder.name, len(scored), target, as_table(report_teacher(scored)))


if __name__ == "__main__":
    main()
