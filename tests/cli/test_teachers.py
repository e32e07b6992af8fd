"""Teachers from YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from rir_hf import Blend, ChatLLM, CompletionLLM, Listwise, QueryLikelihood, Similarities
from rir_hf.cli.main import main
from rir_hf.cli.teachers import read_teacher

BLEND = """
Blend:
  weights: [1, 0.5]
  teachers:
    - QueryLikelihood: {llm: {CompletionLLM: {model: some/model}}}
    - Similarities
"""


def test_a_blend_in_a_file_is_made_with_its_members(tmp_path: Path) -> None:
    (tmp_path / "teacher.yaml").write_text(BLEND)
    teacher = read_teacher(str(tmp_path / "teacher.yaml"))
    member = QueryLikelihood(CompletionLLM("some/model"))
    assert teacher.key() == Blend([member, Similarities()], weights=[1, 0.5]).key()


def test_a_name_of_a_model_is_a_model_with_a_chat_template() -> None:
    teacher = read_teacher("{Listwise: {llm: some/model, window: 4}}")
    assert teacher.key() == Listwise(ChatLLM("some/model"), window=4).key()


def test_what_was_read_already_is_taken() -> None:
    assert isinstance(read_teacher({"Similarities": None}), Similarities)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("Judge", "no teacher 'Judge', only QueryLikelihood"),
        ("{QueryLikelihood: {llm: {Retriever: {model: a}}}}", "no model 'Retriever'"),
        ("{QueryLikelihood: {llm: a, window: 3}}", "no option 'window', only llm, prompt"),
        ("{QueryLikelihood: {}}", "needs the option 'llm'"),
        ("{Blend: {teachers: Similarities}}", "must be a list"),
        ("{Similarities: {foo: 1}}", "Similarities has no option 'foo', it takes none"),
        ("[1, 2]", "is its name, or"),
        ("{a: [", "--teacher: no YAML"),
        ("{Blend: {teachers: [{YesNo: {llm: ./none}}]}}", "--teacher: YesNo: There is no model at"),
    ],
)
def test_what_is_no_teacher_is_refused(described: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_teacher(described)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_teacher("none.yaml")


def test_boost_has_a_teacher_for_the_user_s_queries_too(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["boost", "--corpus", str(collection), "--retriever", minilm, "--dry_run"]
    command += ["--queries", str(collection / "queries.jsonl")]
    command += ["--output", str(tmp_path / "run"), "--queries_teacher"]
    assert main([*command, "{Blend: {teachers: [LexicalTeacher], top: 20}}"]) == 0
    assert main([*command, "Judge"]) == 2
    assert "--queries_teacher: there is no teacher 'Judge'" in capsys.readouterr().err
    assert main([*command, "{Blend: {teachers: [LexicalTeacher], top: 0}}"]) == 2
    assert "--queries_teacher: Blend: top must be at least 1" in capsys.readouterr().err
    assert main([*command, "{YesNo: {llm: ./none}}"]) == 2
    assert "boost: --queries_teacher: YesNo: There is no model at" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
