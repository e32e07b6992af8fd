"""What a run will do, in numbers that can be added up by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rir_hf import boost
from rir_hf.boosting.plan import Planned, as_lines, planned
from rir_hf.boosting.record import RunFolder
from tests.boosting.options import options_of


def plan_of(folder: Path, rounds: int = 1, **changes: Any) -> dict[str, Planned]:
    """The stages by name, of a corpus of 100 passages."""
    numbers: dict[str, Any] = {
        "corpus": 100,
        "labelled": 0,
        "unlabelled": 0,
        "held_out": (10, 20),
        "with_generator": True,
        "is_tuned": True,
    }
    numbers |= {name: changes.pop(name) for name in [*changes] if name in numbers}
    stages = planned(RunFolder(folder), options_of(**changes), rounds, **numbers)
    assert len({stage.stage for stage in stages}) == len(stages)
    return {stage.stage: stage for stage in stages}


def test_queries_are_taken_from_each_passage_and_written_ones_are_asked_for_and_checked(
    tmp_path: Path,
) -> None:
    stages = plan_of(
        tmp_path, passages=30, queries_per_passage=2, written=20, kinds=("claim", "title")
    )
    queries = stages["round-1/queries"]
    assert queries.requests == 2 * 20
    assert queries.does == "write 20 queries and check them, take 60 queries from passages"
    assert stages["held_out/dev"].requests == 2 * 5
    assert stages["held_out/test"].requests == 2 * 10


def test_answers_are_asked_for_each_query_with_a_passage(tmp_path: Path) -> None:
    stages = plan_of(tmp_path, passages=30, kinds=("claim", "title"), labelled=5, answers=4)
    assert stages["round-1/answers"].requests == 4 * (30 + 5)
    assert stages["round-1/tuned_answers"].requests == 30 + 5
    assert stages["round-1/generator"].requests == 2 * 10  # dev, with both generators
    assert stages["round-1/negatives"].does == "of 35 queries"
    assert stages["round-1/lists"].does.startswith("4 candidates of 30 queries")


def test_steps_are_those_of_the_epochs_unless_their_number_is_given(tmp_path: Path) -> None:
    options: dict[str, Any] = {"passages": 40, "kinds": ("claim", "title"), "answers": 5}
    training = {"freeze_passages": False, "batch_size": 4, "epochs": 3}
    epochs = plan_of(tmp_path, **options, training=training)
    assert epochs["round-1/retriever"].steps == 3 * (40 + 3 * 40) / 4
    own = {"unlabelled": 8, "labelled": 4, "repeat_queries": 3, "training": training}
    rows = 40 + 3 * 8 + 3 * (40 + 3 * 4)
    assert plan_of(tmp_path, **options, **own)["round-1/retriever"].steps == 3 * rows / 4
    fixed = plan_of(tmp_path, **options, max_steps=7)
    assert {stage.steps for stage in fixed.values()} == {0, 7}
    assert fixed["test"].encoded == 2 * 100


@pytest.mark.parametrize(
    "changes", [{"with_generator": False}, {"answers": 0}, {"kinds": ("title",)}]
)
def test_without_answers_there_is_no_generator_to_tune(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    stages = plan_of(tmp_path, **{"kinds": ("claim",), "answers": 5, **changes})
    of_generators = {"answers", "preferences", "generator", "tuned_answers"}
    assert not of_generators & {name.rpartition("/")[2] for name in stages}


def test_a_single_answer_is_written_and_tunes_nothing(tmp_path: Path) -> None:
    stages = plan_of(tmp_path, kinds=("claim",), passages=30, answers=1)
    assert stages["round-1/tuned_answers"].requests == 30
    assert not {"round-1/answers", "round-1/preferences", "round-1/generator"} & stages.keys()


def test_each_round_has_its_stages_and_one_test_ends_the_run(tmp_path: Path) -> None:
    names = [*plan_of(tmp_path, rounds=3)]
    assert names[:2] == ["held_out/dev", "held_out/test"]
    assert names[-1] == "test"
    rounds = [[name for name in names if name.startswith(f"round-{n}/")] for n in (1, 2, 3)]
    assert sum(map(len, rounds)) == len(names) - 3
    assert len(set(map(len, rounds))) == 1


def test_what_the_folder_holds_is_marked_as_made(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    RunFolder(tmp_path).rows("round-1/queries", 1, lambda: (rows, {}))
    stages = plan_of(tmp_path, rounds=2)
    assert [name for name, stage in stages.items() if stage.is_made] == ["round-1/queries"]


def test_a_person_reads_the_plan_as_a_table() -> None:
    lines = as_lines(
        [
            Planned("round-1/answers", "5 to each", 12500, 1000000),
            Planned("test", "x", is_made=True),
        ]
    )
    assert [line.split() for line in lines.splitlines()[:3]] == [
        ["stage", "requests", "tokens", "encoded", "steps", "what"],
        ["round-1/answers", "12,500", "1,000,000", "0", "0", "5", "to", "each"],
        ["test", "0", "0", "0", "0", "x*"],
    ]


def test_of_a_larger_corpus_fewer_queries_are_taken_of_each_passage(
    tiny_static: str, tmp_path: Path
) -> None:
    texts = [f"Passage {number} has a sentence of its own." for number in range(12_000)]
    corpus = Dataset.from_dict({"id": texts, "text": texts})

    def taken(**options: Any) -> str:
        planned = boost(corpus, tiny_static, output=tmp_path / "run", dry_run=True, **options)
        return str(planned.rounds[2]["does"])

    assert taken() == "take 36000 queries from passages"
    assert taken(passages=1000) == "take 8000 queries from passages"
    assert taken(queries_per_passage=8) == "take 40000 queries from passages"
