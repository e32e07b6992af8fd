"""A command is killed, or finds the disk full, at a call that writes; then it is run again.

Afterwards the rows are those of a run without a fault, no unfinished file of ours is left, and what
the user had is as it was. A few calls of two commands are tried in the slow tests; with `pytest -m
soak tests/hostile/test_faults.py` a few of each command (`-k some`), and every one in turn;
RIR_HF_PART=2/4 leaves three quarters of these to other processes or nights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

import rir_hf
from tests.cli.conftest import write_lines
from tests.conftest import HUB
from tests.hostile.faulty import COUNT, FULL, KILL
from tests.hub_server import TOKEN
from tests.openai_server import OpenAIServer, completion, prompt_of, top
from tests.training.jobs import preferences

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)

HERE = Path(__file__).parent
FEW = 2


def said_by_model(body: dict[str, Any], _: object) -> Any:
    """A generator that always has something to say."""
    if body["max_tokens"] == 1:
        return top({"Yes": -0.2, "No": -2.0})
    return completion(f"What is {prompt_of(body)[-40:]}, number {body.get('seed', 0)}?")


class Faulty:
    """Runs commands, with a fault or without."""

    def __init__(self, library: Path) -> None:
        more = {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "HF_TOKEN": TOKEN}
        environment = {**os.environ, **more}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.faulty"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=HERE.parents[1],
        )

    def run(self, argv: list[Any], folder: Path, at: int = 0, kind: int = COUNT) -> dict[str, Any]:
        """Exit code, output and number of writing calls of a command."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"argv": list(map(str, argv)), "folder": str(folder), "at": at, "kind": kind}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """The process, with `faults.c` compiled and preloaded."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = [str(HERE / "faults.c"), "-ldl"]
    compiler = str(shutil.which("cc"))
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), *source], check=True)
    started = Faulty(library)
    yield started
    started.process.kill()


@pytest.fixture(scope="module")
def inputs(
    faulty: Faulty,
    tiny_static: str,
    tiny_lm: str,
    faq_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """What commands read: a collection, a retriever that costs nothing, and what each step makes
    for the next.
    """
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(tiny_static, folder / "model")
    animals = ["fox", "dog", "cat", "owl", "bee", "cow", "hen", "rat"]
    texts = {f"p{at}": f"The {name} sleeps at place {at}." for at, name in enumerate(animals)}
    pairs = [
        {"query_id": f"q{at}", "query": f"Where does the {name} sleep?", "pos": [texts[f"p{at}"]]}
        for at, name in enumerate(animals)
    ]
    write_lines(folder / "corpus.jsonl", [{"_id": key, "text": texts[key]} for key in texts])
    write_lines(folder / "pairs.jsonl", pairs)
    judged = {f"q{at}": {f"p{at}": 1} for at in range(len(animals))}
    labelled = {"query": "Q?", "pos": ["a"], "pos_scores": [0.0], "neg": ["b"], "neg_ids": ["p1"]}
    labelled |= {"query_id": "q1", "neg_scores": [1.0], "teacher_error": None, "teacher_cut": 0}
    write_lines(folder / "labelled.jsonl", [labelled] * 20)
    rir_hf.write_qrels(judged, folder / "judged.qrels")
    shutil.copytree(tiny_lm, folder / "generator")
    preferences(4).save_to_disk(folder / "preferred")
    faq = rir_hf.load_rows(faq_file).select_columns(["id", "a"]).rename_column("a", "text")
    faq.take(200).to_json(folder / "larger.jsonl")
    HUB.reset()
    rir_hf.push(Dataset.from_list(pairs), "me/there", token=TOKEN)
    with OpenAIServer(said_by_model) as server:
        (folder / "server").write_text(server.base_url)
        work = tmp_path_factory.mktemp("work")
        for name in ("search", "mine", "score", "generate-queries", "generate-answers",
                     "preferences", "candidates", "score a blend", "evaluate"):  # fmt: skip
            done = faulty.run([*command(name, folder), *outputs(name, folder / name)], work)
            assert done["code"] == 0, done["said"]
        (folder / "data").mkdir()
        rows = [{"query": pair["query"], "pos": pair["pos"], "neg": ["Me."]} for pair in pairs]
        write_lines(folder / "data" / "train.jsonl", rows)
        yield folder


def command(name: str, inputs: Path) -> list[Any]:
    """A command without its output."""
    corpus, pairs = ["--corpus", inputs / "corpus.jsonl"], ["--pairs", inputs / "pairs.jsonl"]
    model = ["--model", inputs / "model"]
    url = (inputs / "server").read_text()
    llm = ["--generate_model_path", "any", "--model_type", "gpt", "--base_url", url]
    llm += ["--api_key", "none"]
    teacher = ["--teacher", "Similarities"]
    few = ["--size", 3, "--top", 1]
    judged, run = ["--qrels", inputs / "judged.qrels"], inputs / "evaluate" / "run.txt"
    scored = ["--rows", inputs / "score"]
    itself = f"{{RetrieverTeacher: {{retriever: {inputs / 'model'}}}}}"
    options: dict[str, list[Any]] = {
        "embed": [*corpus, *model],
        "search": [*corpus, *model, "--queries", inputs / "pairs.jsonl", "--k", 3],
        "mine": [*corpus, *pairs, *model, "--num_negatives", 2],
        "candidates": [*corpus, *model, *few, "--queries", inputs / "pairs.jsonl"],
        "score": ["--rows", inputs / "mine", *teacher],
        "relabel": [*scored, "--drop", 0.0],
        "generate-queries": [*corpus, *llm, "--n", 1],
        "generate-answers": ["--rows", inputs / "pairs.jsonl", *llm, "--n", 2],
        "preferences": ["--rows", inputs / "generate-answers", *model, "--require_gain", "false"],
        "unnest": ["--rows", inputs / "generate-queries", "--columns", "{queries: query}"],
        "split": ["--rows", inputs / "pairs.jsonl"],
        "pull": ["--repo", "me/there"],
        "push": ["--rows", inputs / "pairs.jsonl", "--repo", "me/there", "--config_name", "new"],
        "train-retriever": [*scored, *model, *_QUICK],
        "train-generator": [
            *("--rows", inputs / "preferred", "--model", inputs / "generator"),
            *("--lora_r", 2, "--accumulate", 1, *_QUICK),
        ],
        "boost": [
            *("--corpus", inputs / "larger.jsonl", "--retriever", inputs / "model"),
            *("--passages", 8, "--held_out", 20, "--candidates", 3, *_QUICK[:4]),
            *("--training", "{batch_size: 2}"),
        ],
        "score a blend": [
            *("--rows", inputs / "candidates", *corpus),
            *("--teacher", f"{{Blend: {{teachers: [LexicalTeacher, {itself}]}}}}"),
        ],
        "evaluate": [*corpus, *model, "--queries", inputs / "pairs.jsonl", *judged],
        "fuse": ["--runs", run, run],
        "compare": ["--run", run, "--other", run, *judged],
        "fit-blend": ["--rows", inputs / "score a blend", *judged],
        "thresholds": ["--rows", inputs / "labelled.jsonl", *judged],
        "margin": [*scored, *teacher, "--num_negatives", 1],
        "report": scored,
        "audit": [*corpus, "--train", inputs / "pairs.jsonl", "--test", inputs / "pairs.jsonl"],
        "distill": ["--dataset_path", inputs / "data", *llm, "--method", "yes_no"],
        "export sentence-transformers": [*scored, "--options", "{loss: triplet}"],
        "export trl": ["--rows", inputs / "preferences"],
        "export llamafactory": ["--rows", inputs / "preferences"],
    }
    verb, _, kind = name.partition(" ")
    form = ["--format", kind] if verb == "export" else []
    return [verb, *form, *options.get(name, scored)]


_QUICK = ("--max_steps", 2, "--checkpoint_steps", 1, "--batch_size", 2)


COMMANDS = (
    "embed", "search", "mine", "candidates", "score", "relabel", "generate-queries",
    "generate-answers", "preferences", "unnest", "split", "pull", "train-retriever",
    "train-generator", "boost",
)  # fmt: skip
"""Those with `--output`."""

WRITES = {
    "evaluate": ("--run_file", "run.txt", "--json", "found.json"),
    "fuse": ("--run_file", "run.txt"),
    "compare": ("--json", "found.json"),
    "fit-blend": ("--json", "found.json"),
    "thresholds": ("--json", "found.json"),
    "margin": ("--json", "found.json"),
    "report": ("--html", "rows.html", "--plot", "rows.png", "--json", "rows.json"),
    "audit": ("--output", "flagged", "--json", "found.json"),
    "distill": ("--output_dir", "scored"),
    "export sentence-transformers": ("--path", "train.parquet"),
    "export flagembedding": ("--path", "train.jsonl"),
    "export tevatron": ("--path", "train.jsonl"),
    "export pylate": ("--path", "pylate"),
    "export automodel": ("--path", "automodel"),
    "export trl": ("--path", "trl"),
    "export llamafactory": ("--path", "llamafactory"),
}
"""What else a command writes: options, and the file or folder that each is given."""


GOES_ON = (
    "boost", "evaluate", "fuse", "compare", "fit-blend", "thresholds", "margin", "report"
)  # fmt: skip
"""Commands that need no `--overwrite` to be run again."""


def outputs(name: str, out: Path) -> list[Any]:
    """The options that say where a command writes."""
    options = iter(WRITES.get(name, ()))
    named = [part for option in options for part in (option, out / next(options))]
    return named or ["--output", out]


def rows_of(output: Path) -> list[Any]:
    """The rows that a command left, of `boost` those of all stages; of a model its weights; of
    other files what is in them.
    """
    if stages := sorted(path.parent for path in output.glob("*/*/dataset_info.json")):
        return [{stage.name: rows_of(stage)} for stage in stages]
    if weights := sorted(output.glob("*.safetensors")):
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    if not (output / "state.json").exists() and not (output / "dataset_dict.json").exists():
        return sorted(
            (str(file.relative_to(output)), text) for file, text in contents_of(output).items()
        )
    found = load_from_disk(str(output))
    parts = found.values() if isinstance(found, dict) else [found]
    return [row for part in parts for row in part.to_list()]


def files_of(folder: Path) -> set[str]:
    """Names of files, cache and temporary files left aside."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if path.parts[0] not in ("cache", "tmp")}


def unfinished_in(folder: Path) -> list[Path]:
    """What a killed process of ours left."""
    return [path for path in folder.rglob("*") if ".part" in path.name or "rir-hf-" in path.name]


def grow_old(folder: Path) -> None:
    """Let the leftovers be a minute old, as they are when somebody looks what happened."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - 60, time.time() - 60), follow_symlinks=False)


def contents_of(folder: Path) -> dict[Path, str]:
    """The digest of each file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def some_of(calls: int, which: str) -> list[int]:
    """The calls at which there is a fault."""
    every = list(range(1, calls + 1))
    if which == "every":
        part, parts = map(int, os.environ.get("RIR_HF_PART", "1/1").split("/"))
        return every[part - 1 :: parts]
    return every[:: max(1, calls // FEW)][:FEW] + every[-1:]


@pytest.mark.parametrize("kind", [KILL, FULL], ids=["killed", "full"])
@pytest.mark.parametrize(
    ("which", "name"),
    [pytest.param("some", name, marks=pytest.mark.slow) for name in ("mine", "generate-answers")]
    + [pytest.param("some", name, marks=pytest.mark.soak) for name in COMMANDS]
    + [pytest.param("every", name, marks=pytest.mark.soak) for name in (*COMMANDS, *WRITES)],
)
def test_after_a_fault_the_same_command_ends_with_the_same_rows(
    which: str, name: str, kind: int, faulty: Faulty, inputs: Path, tmp_path: Path
) -> None:
    argv, before = command(name, inputs), contents_of(inputs)
    plain = tmp_path / "plain"
    plain.mkdir()
    done = faulty.run([*argv, *outputs(name, plain / "out")], plain)
    assert done["code"] == 0, done["said"]
    expected, files = rows_of(plain / "out"), files_of(plain)
    for at in some_of(done["calls"], which):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        (folder / "mine.txt").write_text("the user's")
        wanted = [*argv, *outputs(name, folder / "out")]
        hit = faulty.run(wanted, folder, at, kind)
        if kind == FULL and hit["code"]:
            assert hit["code"] == 2, f"at call {at}: {hit['said'][-3000:]}"
        if hit["code"] == 0:
            assert rows_of(folder / "out") == expected, at
        grow_old(folder)
        goes_on = argv[0] in GOES_ON or not (folder / "out").exists()
        after = faulty.run([*wanted, *([] if goes_on else ["--overwrite"])], folder)
        assert after["code"] == 0, f"after call {at}: {after['said'][-3000:]}"
        assert rows_of(folder / "out") == expected, at
        assert files_of(folder) == files | {"mine.txt"}, at
        assert unfinished_in(folder) == [], at
        shutil.rmtree(folder)
    # datasets keeps what it mapped beside a loaded dataset; what was there stays as it was.
    assert before.items() <= contents_of(inputs).items()
    assert unfinished_in(inputs) == []


@pytest.mark.parametrize("kind", [KILL, FULL], ids=["killed", "full"])
@pytest.mark.parametrize(
    "which",
    [pytest.param("some", marks=pytest.mark.slow), pytest.param("every", marks=pytest.mark.soak)],
)
def test_after_a_fault_the_same_push_brings_everything(
    which: str, kind: int, faulty: Faulty, inputs: Path, tmp_path: Path
) -> None:
    repository = HUB.repositories["me/there"]
    before, argv = repository.branches["main"], command("push", inputs)
    done = faulty.run(argv, tmp_path)
    assert done["code"] == 0, done["said"]
    expected = repository.files
    for at in some_of(done["calls"], which):
        repository.branches["main"] = before
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        hit = faulty.run(argv, folder, at, kind)
        whole = (repository.commits[before], expected)
        assert repository.files in whole, at
        if kind == FULL and hit["code"]:
            assert hit["code"] == 2, f"at call {at}: {hit['said'][-3000:]}"
        grow_old(folder)
        after = faulty.run(argv, folder)
        assert after["code"] == 0, f"after call {at}: {after['said'][-3000:]}"
        assert repository.files == expected, at
        assert unfinished_in(folder) == [], at
        shutil.rmtree(folder)
    repository.branches["main"] = before


@pytest.mark.slow
def test_an_older_result_is_there_whole_until_the_new_one_is(
    faulty: Faulty, inputs: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    old = [*command("mine", inputs), "--output", work / "out"]
    assert faulty.run(old, work)["code"] == 0
    two = rows_of(work / "out")
    new = [*old, "--overwrite", "--num_negatives", 1]
    counted = tmp_path / "counted"
    shutil.copytree(work, counted)
    new[new.index(work / "out")] = counted / "out"
    calls = faulty.run(new, counted)["calls"]
    one = rows_of(counted / "out")
    for at in some_of(calls, "some"):
        folder = tmp_path / f"at-{at}"
        shutil.copytree(work, folder)
        argv = [folder / "out" if part == counted / "out" else part for part in new]
        faulty.run(argv, folder, at, KILL)
        assert rows_of(folder / "out") in (two, one), at


@pytest.mark.soak
@pytest.mark.parametrize("name", ["mine", "boost"])
def test_after_a_kill_within_a_deletion_what_is_left_is_not_trusted(
    name: str, faulty: Faulty, inputs: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    (work / "out").mkdir(parents=True)
    made = [*command(name, inputs), "--output", work / "out"]
    assert faulty.run(made, work)["code"] == 0
    expected = rows_of(work / "out")
    deletes = ["cache", "--delete", "*", *(["--run", work / "out"] if name == "boost" else [])]
    before = tmp_path / "before"
    shutil.copytree(work, before)
    calls = faulty.run(deletes, work)["calls"]
    for at in some_of(calls, "every"):
        shutil.rmtree(work)
        shutil.copytree(before, work)
        assert faulty.run(deletes, work, at, KILL)["code"] == -9
        again = [] if name == "boost" else ["--overwrite"]
        after = faulty.run([*made, *again], work)
        assert after["code"] == 0, f"after call {at}: {after['said'][-3000:]}"
        assert rows_of(work / "out") == expected, at
        assert faulty.run(deletes, work)["code"] == 0
        assert faulty.run([*deletes, "--dry_run"], work)["code"] == 2  # nothing is left
