"""`rir-hf distill`: files of query, pos and neg in, the same with a teacher's scores out.

The options are those of the seed's script.
"""

from __future__ import annotations

import inspect
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rir_hf.cli.checks import check_model, check_room
from rir_hf.cli.inputs import said_of
from rir_hf.cli.options import HubOptions, LLMOptions, Model, Rows, RunOptions, Step
from rir_hf.cli.output import check_writable, counted, write_lines

logger = logging.getLogger(__name__)

FILE = "train.jsonl"
METHODS = {
    "listwise": "Listwise",
    "listwise_logits": "ListwiseLogits",
    "yes_no": "YesNo",
    "query_likelihood": "QueryLikelihood",
    "cross_encoder": "CrossEncoderTeacher",
}


@dataclass
class Asking:
    """How the teacher is asked.

    Args:
        prompt: another prompt, with the fields {query} and {passage} or {passages}.
        temperature: of listwise answers. As in the seed's script; the default of its function, and
            so of `Listwise`, is 0.0.
        top_p: of listwise answers.
        max_tokens: tokens of the longest listwise answer.
        window: passages ranked at a time (listwise).
        step: passages that the window moves by; none: half a window.
        shuffles: orders in which each list is shown.
        max_passage_tokens: tokens after which a passage is cut.
        seed: of orders and draws.
    """

    prompt: str | None = None
    temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 300
    window: int = 20
    step: int | None = None
    shuffles: int = 1
    max_passage_tokens: int = 512
    seed: int = 0


def command(
    asking: Asking,
    llm: LLMOptions,
    running: RunOptions,
    hub: HubOptions,
    dataset_path: str,
    dataset_name: str | None = None,
    output_dir: str | None = None,
    method: Literal[
        "listwise", "listwise_logits", "yes_no", "query_likelihood", "cross_encoder"
    ] = "listwise",
    blend_retriever: bool = False,
    batch_size: int = 256,
    overwrite: bool = False,
) -> None:
    """Add a teacher's scores to the train.jsonl of one dataset or many.

    rir-hf distill --dataset_path data --output_dir scored --generate_model_path Qwen/Qwen3-8B
    rir-hf distill --dataset_path data --dataset_name scifact --model_type gpt
        --generate_model_path gpt-4.1-mini

    A file is replaced at once when it is complete, so that a killed run leaves the old one; run
    again, it goes on where it was. What this very teacher has scored is not asked again, but for
    the rows that failed. `rir-hf score` takes all options of all teachers.

    Args:
        dataset_path: folder of folders with a train.jsonl of query, pos and neg, or such a folder.
        dataset_name: the one dataset to score; none: all of them.
        output_dir: where the scored files go; none: in place, which changes no other column.
        method: how the teacher is asked; query_likelihood suits small models.
        blend_retriever: add the z-scores of pos_sims and neg_sims to the teacher's.
        batch_size: rows per batch.
        overwrite: ask again for what this teacher has scored.
    """
    from rir_hf import Blend, ScorePassages, Similarities, load_rows

    folders = folders_with_rows(Path(dataset_path), dataset_name)
    targets = [Path(output_dir) / folder.name if output_dir else folder for folder in folders]
    for target in targets:
        check_writable(target.absolute(), "--output_dir" if output_dir else "--dataset_path")
        check_room(target)
    hub.check()
    teacher = teacher_for(method, llm, asking)
    if method == "cross_encoder":
        if llm.gguf_file is not None:
            raise ValueError("--gguf_file is of a language model, not of --method cross_encoder")
        check_model(llm.generate_model_path, "--generate_model_path")
    else:
        llm.check()
    scoring = ScorePassages(Blend([teacher, Similarities()]) if blend_retriever else teacher)
    for folder in folders:  # what is wrong with the last is said before the first is scored
        check_file(folder / FILE, scoring)
    for folder, place in zip(folders, targets, strict=True):
        target = place / FILE
        score_file(folder / FILE, target, scoring, running, batch_size, overwrite=overwrite)
        if hub.push_to_hub is not None and not running.dry_run:
            config = "scored" if len(folders) == 1 else f"scored-{folder.name}"
            hub.push(load_rows(target), config, steps=[scoring])
    running.says(*(f"write scores into {place / FILE}" for place in targets))


def folders_with_rows(path: Path, name: str | None) -> list[Path]:
    """The folders that hold a train.jsonl; `FileNotFoundError` where there is none."""
    if path.name == FILE:
        path = path.parent
    if name is not None:
        folders = [path / name]
    elif (path / FILE).exists():
        folders = [path]
    else:
        folders = sorted(file.parent for file in path.glob(f"*/{FILE}"))
    missing = [folder for folder in folders if not (folder / FILE).exists()]
    if missing or not folders:
        where = missing[0] if missing else f"{path} or a folder below it"
        raise FileNotFoundError(f"--dataset_path: no {FILE} in {where}")
    return folders


def teacher_for(method: str, llm: LLMOptions, asking: Asking) -> Model:
    """The teacher of a method, with those of the options that it takes."""
    import rir_hf

    kind = getattr(rir_hf, METHODS[method])
    model = llm.generate_model_path if method == "cross_encoder" else llm.load()
    takes = inspect.signature(kind).parameters
    return kind(model, **{name: value for name, value in vars(asking).items() if name in takes})


def check_file(file: Path, step: Step) -> None:
    """Raise `ValueError` where a line of a file is no row, or the rows lack what the step reads."""
    rows = read_lines(file)
    with said_of(str(file)):
        step.check(columns_for(step, rows).features)


def score_file(
    file: Path, target: Path, step: Step, running: RunOptions, batch_size: int, *, overwrite: bool
) -> None:
    """Write the rows of a file with the columns of the step into another, or into itself."""
    rows = read_lines(file)
    earlier = read_lines(target) if target.exists() else []
    has_failures = any(row.get("teacher_error") for row in earlier)
    asked = columns_for(step, rows)
    if running.dry_run:
        running.run(asked, step, batch_size)
        return
    if overwrite:
        forget(asked, step, batch_size)
    scored = running.run(asked, step, batch_size)
    if has_failures and not overwrite:
        scored = running.run(scored, step, batch_size, retry=True)
    added = [column.name for column in step.outputs_for(asked.column_names)]
    new = scored.select_columns(added).to_list()
    write_lines([{**row, **more} for row, more in zip(rows, new, strict=True)], target)
    counted(scored, "teacher")
    logger.info("Written to %s: %d rows", target, len(rows))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; `ValueError` with the line's number where one is none."""
    rows = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {number}: no JSON ({error})") from None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}: {type(row).__name__} in place of a row")
            rows.append(row)
    return rows


def columns_for(step: Step, rows: Sequence[Mapping[str, Any]]) -> Rows:
    """What the step reads of the rows, as a dataset that is known by this content alone.

    So scores that stand in the file already, and whatever else does, change nothing.
    """
    from datasets import Dataset

    from rir_hf.schema import OneOf

    there = {name for row in rows for name in row}
    wanted: list[str] = []
    for column in step.inputs:
        choices = column if isinstance(column, OneOf) else (column,)
        wanted += [choice.name for choice in choices]
    return Dataset.from_dict(
        {name: [storable(row.get(name)) for row in rows] for name in wanted if name in there}
    )


def storable(value: Any) -> Any:
    """The value with a question mark for each half of a character, which Arrow cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [storable(item) for item in value] if isinstance(value, list) else value


def forget(rows: Rows, step: Step, batch_size: int) -> None:
    """Delete what earlier runs of the step over these rows left in the cache."""
    from rir_hf.running.run import folder_of_run, key_of_run

    shutil.rmtree(folder_of_run(step, key_of_run(rows, step, batch_size)), ignore_errors=True)
