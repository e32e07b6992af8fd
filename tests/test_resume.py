"""Maps in shards: equal to plain ones, and kept whatever happens."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, load_from_disk

from rir_hf import Embed, MineNegatives, Retriever, map_in_shards, provenance, resume

SEEN: list[int] = []


def rows_on_disk(folder: Path, number: int = 100) -> Dataset:
    """Numbered rows."""
    Dataset.from_dict({"number": list(range(number)), "text": [f"text {place}" for place in range(number)]}).save_to_disk(folder)
    return load_from_disk(folder)


def double(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Twice the number."""
    SEEN.extend(batch["number"])
    return {"double": [2 * number for number in batch["number"]]}


def nulls_in_turn(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """One column is null for the first thirty, the other for all after them: no shard knows both types."""
    late = [number >= 30 for number in batch["number"]]
    return {"late": [1 if is_late else None for is_late in late], "early": [None if is_late else ["a"] for is_late in late]}


def odd_rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Drop the even ones, and the first thirty."""
    kept = [place for place, number in enumerate(batch["number"]) if number % 2 and number >= 30]
    return {"odd": [batch["number"][place] for place in kept]}


def place_and_rank(batch: dict[str, list[Any]], places: list[int], rank: int | None) -> dict[str, list[Any]]:
    """Where the rows are, and whether a worker process took them."""
    return {"place": places, "ranked": [rank in (0, 1)] * len(places)}


def shift(row: dict[str, Any], place: int) -> dict[str, int]:
    """For one row at a time."""
    return {"shifted": row["number"] + place}


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "batches": (double, {"batched": True, "batch_size": 7}),
    "dropped rows": (odd_rows, {"batched": True, "batch_size": 10, "remove_columns": ["number", "text"]}),
    "indices and rank": (place_and_rank, {"batched": True, "with_indices": True, "with_rank": True}),
    "one by one": (shift, {"with_indices": True}),
    "one column": (lambda number: {"more": number + 1}, {"input_columns": "number"}),
    "named columns": (lambda number: {"more": number}, {"input_columns": ["number"], "remove_columns": "text"}),
    "nothing": (lambda row: None, {}),
    "arguments": (lambda row, plus: {"more": row["number"] + plus}, {"fn_kwargs": {"plus": 3}}),
}


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_rows_and_types_are_those_of_a_plain_map(case: str, num_proc: int | None, tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")
    function, kwargs = CASES[case]
    mapped = map_in_shards(ds, function, rows_per_shard=30, num_proc=num_proc, **kwargs)
    plain = ds.map(function, **kwargs, load_from_cache_file=False)
    if case == "indices and rank" and num_proc:
        plain = plain.remove_columns("ranked").add_column("ranked", [True] * 100)
    assert mapped.to_list() == plain.to_list()
    assert mapped.features == plain.features


def test_a_shard_of_nulls_takes_the_type_of_the_others(tmp_path: Path) -> None:
    mapped = map_in_shards(rows_on_disk(tmp_path / "rows"), nulls_in_turn, rows_per_shard=30, batched=True)
    assert mapped.features["late"] == datasets.Value("int64")
    assert mapped.features["early"] == datasets.List(datasets.Value("string"))
    assert mapped["late"][:] == [None] * 30 + [1] * 70
    assert mapped["early"][:] == [["a"]] * 30 + [None] * 70


def test_a_second_run_computes_nothing_and_more_rows_only_the_new_ones(tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")
    SEEN.clear()
    first = map_in_shards(ds, double, rows_per_shard=30, batched=True)
    assert list(range(100)) == SEEN
    again = map_in_shards(ds, double, rows_per_shard=30, batched=True, num_proc=2, desc="another name")
    assert list(range(100)) == SEEN
    assert again._fingerprint == first._fingerprint
    assert again.map(double, batched=True)._fingerprint == first.map(double, batched=True)._fingerprint
    assert len(SEEN) == 200
    SEEN.clear()
    map_in_shards(ds, double, rows_per_shard=30, batched=True, batch_size=5)
    assert len(SEEN) == 100
    map_in_shards(ds, double, rows_per_shard=30, batched=True, load_from_cache_file=False)
    assert len(SEEN) == 200


def test_rows_in_memory_are_put_on_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    ds = Dataset.from_dict({"number": list(range(100))})
    SEEN.clear()
    first = map_in_shards(ds, double, rows_per_shard=40, batched=True)
    again = map_in_shards(Dataset.from_dict({"number": list(range(100))}), double, rows_per_shard=40, batched=True)
    assert again.to_list() == first.to_list() == ds.map(double, batched=True).to_list()
    assert [*range(100), *range(100)] == SEEN  # the first sharded run, and the plain one
    assert again.cache_files


class LoadsLate:
    """Counts the batches that it has seen since it was loaded."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[int]]:
        self._batches = self.__dict__.get("_batches", 0) + 1
        return {"batches": [self._batches] * len(batch["number"])}

    def __getstate__(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_process_loads_its_model_once(num_proc: int, tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")
    mapped = map_in_shards(ds, LoadsLate(), rows_per_shard=5, batched=True, num_proc=num_proc)
    assert max(mapped["batches"]) >= 20 / num_proc


def test_shuffled_and_selected_rows_keep_their_order(tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows").shuffle(seed=1).select(range(10, 90))
    kwargs = {"batched": True, "with_indices": True, "with_rank": True}
    mapped = map_in_shards(ds, place_and_rank, rows_per_shard=32, **kwargs)
    assert mapped["number"][:] == ds["number"][:]
    assert mapped["place"][:] == list(range(80))


@pytest.mark.parametrize("shown", [None, ["number"]])
def test_formatted_rows_stay_formatted(shown: list[str] | None, tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows").with_format("numpy", columns=shown, dtype="float32")
    mapped = map_in_shards(ds, lambda row: {"half": row["number"] / 2}, rows_per_shard=30)
    plain = ds.map(lambda row: {"half": row["number"] / 2})
    assert {**mapped.format, "columns": sorted(mapped.format["columns"])} == {
        **plain.format,
        "columns": sorted(plain.format["columns"]),
    }
    assert type(mapped[3]["half"]) is type(plain[3]["half"])


def test_the_bar_moves_inside_a_shard(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "are_progress_bars_disabled", lambda: False)
    monkeypatch.setattr(datasets.config, "PBAR_REFRESH_TIME_INTERVAL", 0)
    monkeypatch.setattr(resume, "tqdm", partial(resume.tqdm, mininterval=0))
    map_in_shards(rows_on_disk(tmp_path / "rows"), double, rows_per_shard=60, batched=True, batch_size=20, desc="Twice")
    shown = capfd.readouterr().err
    assert all(f"{number}/100" in shown for number in (20, 40, 60, 80, 100))
    assert "Twice" in shown


def test_our_maps_and_their_provenance(faq_pairs: Dataset, faq_corpus: Dataset, retriever: Retriever) -> None:
    embedded = map_in_shards(
        faq_pairs.remove_columns("embedding"), Embed(retriever, "query", role="query"), rows_per_shard=50, batched=True
    )
    mine = MineNegatives(faq_corpus, num_negatives=3)
    mined = map_in_shards(embedded, mine, rows_per_shard=50, batched=True, num_proc=2)
    plain = faq_pairs.map(mine, batched=True)
    assert mined.select_columns(["neg_ids", "pos_rank"]).to_list() == plain.select_columns(["neg_ids", "pos_rank"]).to_list()
    assert mined.features == plain.features
    assert [step["map"] for step in provenance(mined)][-2:] == ["Embed", "MineNegatives"]
    assert provenance(mined)[-1] == provenance(plain)[-1]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")
    for other in (ds.to_iterable_dataset(), datasets.DatasetDict(train=ds)):
        with pytest.raises(TypeError, match=f"takes a Dataset, found {type(other).__name__}"):
            map_in_shards(other, double, rows_per_shard=10)
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1"):
        map_in_shards(ds, double, rows_per_shard=0)
    with pytest.raises(ValueError, match="num_proc must be at least 0"):
        map_in_shards(ds, double, rows_per_shard=10, num_proc=-1)
    with pytest.raises(TypeError, match="Dataset.map, which takes no batchsize"):
        map_in_shards(ds, double, rows_per_shard=10, batchsize=5)
    with pytest.raises(ValueError, match="takes no cache_file_name"):
        map_in_shards(ds, double, rows_per_shard=10, cache_file_name="here.arrow")
    with pytest.raises(ValueError, match=r"remove_columns names \['nubmer'\], not among the columns \['number', 'text'\]"):
        map_in_shards(ds, double, rows_per_shard=10, remove_columns="nubmer")
    with pytest.raises(ValueError, match="returned None for the rows 50 to 60, and rows for others"):
        map_in_shards(ds, lambda row: None if row["number"] >= 50 else {"more": 1}, rows_per_shard=10)
    assert len(map_in_shards(ds.select([]), double, rows_per_shard=10, batched=True)) == 0


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_is_named_and_finished_shards_stay(signal_number: int, tmp_path: Path) -> None:
    ds, flag = rows_on_disk(tmp_path / "rows"), tmp_path / "killed"

    def killed_once(row: dict[str, Any]) -> dict[str, int]:
        if row["number"] == 55 and not flag.exists():
            time.sleep(0.5)
            flag.touch()
            os.kill(os.getpid(), signal_number)
        return {"more": row["number"] + 1}

    with pytest.raises(RuntimeError, match=f"ended with exit code -{signal_number:d}, as one does that .* run it again"):
        map_in_shards(ds, killed_once, rows_per_shard=10, num_proc=2)
    finished = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "rows").glob("cache-*.arrow")}
    assert finished
    again = map_in_shards(ds, killed_once, rows_per_shard=10, num_proc=2)
    assert again["more"][:] == list(range(1, 101))
    assert {name: (tmp_path / "rows" / name).stat().st_mtime_ns for name in finished} == finished


def test_an_error_of_the_function_is_its_own(tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")

    def of_another_file(row: dict[str, Any]) -> dict[str, Any]:
        raise PermissionError(errno.EACCES, "Permission denied", "another/file")

    for num_proc in (None, 2):
        with pytest.raises(PermissionError, match="Permission denied: 'another/file'"):
            map_in_shards(ds, of_another_file, rows_per_shard=10, num_proc=num_proc)


class APIError(Exception):
    """Cannot be unpickled, as the errors of API clients."""

    def __init__(self, message: str, *, response: str) -> None:
        super().__init__(message)
        self.response = response


def test_an_error_that_cannot_travel_between_processes_is_told(tmp_path: Path) -> None:
    def fails(row: dict[str, Any]) -> dict[str, Any]:
        raise APIError("no credit left", response="402")

    with pytest.raises(RuntimeError, match="APIError: no credit left"):
        map_in_shards(rows_on_disk(tmp_path / "rows"), fails, rows_per_shard=10, num_proc=2)


def test_shards_of_another_length_stay_in_use(tmp_path: Path) -> None:
    ds, limit, log = rows_on_disk(tmp_path / "rows"), tmp_path / "limit", tmp_path / "log"
    limit.write_text("60")

    def stops(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if max(batch["number"]) >= int(limit.read_text()):
            raise KeyboardInterrupt
        with log.open("a") as file:
            file.writelines(f"{number}\n" for number in batch["number"])
        return {"more": [number + 1 for number in batch["number"]]}

    with pytest.raises(KeyboardInterrupt):
        map_in_shards(ds, stops, rows_per_shard=25, batched=True)
    limit.write_text("100")
    log.unlink()
    for rows_per_shard in (10, 40):
        assert map_in_shards(ds, stops, rows_per_shard=rows_per_shard, batched=True)["more"][:] == list(range(1, 101))
        assert [int(line) for line in log.read_text().split()] == list(range(50, 100))


def test_shards_that_were_made_anew_are_the_ones_in_use(tmp_path: Path) -> None:
    ds, value = rows_on_disk(tmp_path / "rows"), tmp_path / "value"

    def read_value(row: dict[str, Any]) -> dict[str, Any]:
        return {"value": value.read_text()}

    value.write_text("old")
    map_in_shards(ds, read_value, rows_per_shard=50)
    value.write_text("new")
    map_in_shards(ds, read_value, rows_per_shard=30, load_from_cache_file=False)
    for rows_per_shard in (30, 50):
        assert map_in_shards(ds, read_value, rows_per_shard=rows_per_shard)["value"][:] == ["new"] * 100


def test_caching_can_be_turned_off(tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")
    SEEN.clear()
    datasets.disable_caching()
    try:
        for _ in range(2):
            assert map_in_shards(ds, double, rows_per_shard=30, batched=True)["double"][:] == list(range(0, 200, 2))
    finally:
        datasets.enable_caching()
    assert len(SEEN) == 200


def test_other_types_in_a_later_shard_and_a_damaged_shard_are_named(tmp_path: Path) -> None:
    ds = rows_on_disk(tmp_path / "rows")
    message = "gave the rows 50 to 60 other columns or types .* odd: double, not .* odd: int64. Return one type .* features="
    with pytest.raises(ValueError, match=message):
        map_in_shards(ds, lambda row: {"odd": 0.5 if row["number"] >= 50 else 1}, rows_per_shard=10)
    assert len(map_in_shards(ds, double, rows_per_shard=50, batched=True)) == 100
    shard = max((tmp_path / "rows").glob("cache-*-50-100.arrow"), key=lambda file: file.stat().st_mtime)
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{shard}, a shard of map_in_shards, is damaged: delete it and run again"):
        map_in_shards(ds, double, rows_per_shard=50, batched=True)
    shard.unlink()
    assert len(map_in_shards(ds, double, rows_per_shard=50, batched=True)) == 100


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size."""
    folder.mkdir()
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "-l", str(folder)], check=True)


def long_texts(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Ten kilobytes for each row."""
    SEEN.extend(batch["number"])
    return {"long": [f"{number:05}" * 2000 for number in batch["number"]]}


def test_a_full_disk_keeps_the_finished_shards(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "2600k") as folder:
        ds = rows_on_disk(folder / "rows", 400)
        SEEN.clear()
        with pytest.raises(OSError, match=r"rows is full: map_in_shards .* run it again") as error:
            map_in_shards(ds, long_texts, rows_per_shard=40, batched=True)
        assert str(folder) in str(error.value)
        finished = len(list((folder / "rows").glob("cache-*.arrow")))
        assert 2 <= finished < 10
        subprocess.run(["/bin/mount", "-o", "remount,size=20m", str(folder)], check=True)
        SEEN.clear()
        mapped = map_in_shards(ds, long_texts, rows_per_shard=40, batched=True)
        assert list(range(40 * finished, 400)) == SEEN
        assert mapped["long"][399] == "00399" * 2000
        del mapped


def test_a_read_only_cache_is_named_and_what_is_there_is_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "20m") as folder:
        ds = rows_on_disk(folder / "rows")
        first = map_in_shards(ds, double, rows_per_shard=40, batched=True)
        subprocess.run(["/bin/mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(OSError, match="is read-only: map_in_shards"):
            map_in_shards(ds, long_texts, rows_per_shard=40, batched=True)
        assert map_in_shards(ds, double, rows_per_shard=40, batched=True).to_list() == first.to_list()


RUN = """
import json, sys, time
from pathlib import Path
from datasets import load_from_disk
from rir_hf import ChatLLM, Embed, Retriever, ScorePassages, map_in_shards

kind, folder, model, log = sys.argv[1:]


class Counted:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):  # the same key whatever is counted
        return Counted, (self.function,)

    def __call__(self, batch):
        found = self.function(batch)
        with open(log, "a") as file:
            file.write(json.dumps([row for row in batch["number"]]) + chr(10))
        return found


function = Embed(Retriever(model)) if kind == "embed" else ScorePassages(
    ChatLLM(model), method="query_likelihood", max_passage_tokens=40
)
mapped = map_in_shards(load_from_disk(folder), Counted(function), rows_per_shard=16, batched=True, batch_size=8)
mapped.to_json(folder + ".jsonl")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embed", "teach"])
def test_a_killed_run_repeats_one_shard_at_most(kind: str, faq_file: Path, minilm: str, tiny_lm: str, tmp_path: Path) -> None:
    faq = [json.loads(line) for line in faq_file.read_text(encoding="utf-8").splitlines()][:160]
    texts = [row["a"] for row in faq]
    rows = [
        {"number": place, "text": row["a"], "query": row["q"], "pos": [row["a"]], "neg": texts[place - 3 : place] or texts[5:8]}
        for place, row in enumerate(faq)
    ]
    model = minilm if kind == "embed" else tiny_lm
    results = {}
    for name, kills in (("undisturbed", 0), ("killed", 5)):
        folder, log = tmp_path / name, tmp_path / f"{name}.log"
        Dataset.from_list(rows).save_to_disk(folder)
        log.touch()
        command = [sys.executable, "-c", RUN, kind, str(folder), model, str(log)]
        generator, shards_before = random.Random(7), 0
        for _ in range(kills):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            lines = len(log.read_text().splitlines())
            wanted = lines + generator.randint(1, 4)
            while len(log.read_text().splitlines()) < wanted and process.poll() is None:
                time.sleep(0.005)
            time.sleep(generator.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            shards = len(list(folder.glob("cache-*.arrow")))
            assert shards >= shards_before
            shards_before = shards
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        results[name] = (folder.with_suffix(".jsonl")).read_bytes()
        batches = [json.loads(line) for line in log.read_text().splitlines()]
        repeated = sum(map(len, batches)) - 160
        assert repeated <= 16 * kills
    assert results["killed"] == results["undisturbed"]
