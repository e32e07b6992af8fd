"""What is wrong is said before there is work, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rir_hf.cli.main import main
from rir_hf.training.arguments import check_report_to
from tests.cli.conftest import write_lines
from tests.cli.test_main import rir_hf
from tests.hub_server import TOKEN, HubServer
from tests.openai_server import OpenAIServer, completion


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "/dev/null"], "--model /dev/null: there is no folder of a model"),
        (["--model", "a b"], "--model a b: there is no such folder, and a model of the Hub is"),
        (["--model", "me/none"], "the Hub has no such model"),
        (["--model", "none"], "the Hub has no such model"),
        (["--device", "cuda:77"], "--device cuda:77: torch has no such device here"),
        (["--dtype", "float99"], "--dtype must be one of 'float32', 'float16', 'bfloat16', 'auto'"),
        (["--factory", "Qat7"], "--factory: FAISS cannot make 'Qat7'"),
        (["--push_to_hub", "me/a/b"], "'me/a/b' cannot be a repository's name"),
    ],
)
def test_models_indexes_and_repositories_are_checked_before_the_rows_are_read(
    options: list[str], message: str, hub: HubServer, minilm: str, unread: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["mine", "--corpus", unread, "--pairs", unread, "--model", minilm]
    assert main([*command, "--output", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "scifcat"], "scifcat is no file or folder here, and no dataset on the Hub"),
        (["--qrels", "judgde"], "judgde is no file or folder here, and no dataset on the Hub"),
    ],
)
def test_all_sources_are_looked_for_before_one_is_read(
    options: list[str], message: str, hub: HubServer, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_lines(tmp_path / "rows.jsonl", [{"no": "such columns"}])
    rows, output = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    command = ["mine", "--corpus", rows, "--pairs", rows, "--index", "bm25", "--output", output]
    assert main([*command, *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_server_that_is_not_there_is_said_with_its_address_and_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": "q"}] * 3)
    command = ["generate-answers", "--rows", str(tmp_path / "rows.jsonl"), "--output"]
    command += [str(tmp_path / "out"), "--generate_model_path", "any", "--model_type", "gpt"]
    with OpenAIServer(lambda *_: completion("an answer"), listening=False) as server:
        assert main([*command, "--base_url", server.base_url]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"The server at {server.base_url}/ cannot be asked" in last
        assert "--base_url" in last
        assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_a_gguf_file_says_how_to_name_it(
    unread: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "smol.gguf").touch()
    command = ["generate-answers", "--rows", unread, "--output", str(tmp_path / "out")]
    command += ["--generate_model_path", str(tmp_path)]
    assert main(command) == 2
    assert "the folder holds smol.gguf: name it as --gguf_file" in capsys.readouterr().err
    assert main([*command, "--gguf_file", "other.gguf"]) == 2
    assert "has no such file, only ['smol.gguf']" in capsys.readouterr().err


def test_a_product_that_does_not_exist_is_said_before_the_rows_are_read(
    minilm: str, unread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("RIR_HF_PRODUCT", "int9")
    command = ["mine", "--corpus", unread, "--pairs", unread, "--model", minilm]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "RIR_HF_PRODUCT is 'int9'; it can be one of int8" in capsys.readouterr().err


def test_a_push_without_a_token_is_refused_before_the_work(
    unread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for command in (["push", unread, "me/rows"],
                    ["relabel", "--rows", unread, "--output", str(tmp_path / "out"),
                     "--push_to_hub", "me/rows"]):  # fmt: skip
        assert main(command) == 2
        assert "no token to push to me/rows with: hf auth login, or HF_TOKEN" in (
            capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("role", "token", "message"),
    [("write", "hf_wrong", "does not know this one: hf auth"), ("read", TOKEN, "can only read")],
)
def test_a_token_that_cannot_push_is_refused_before_the_work(
    role: str, token: str, message: str, hub: HubServer, unread: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub.role = role
    monkeypatch.setenv("HF_TOKEN", token)
    train = ["--rows", unread, "--model", unread, "--output", str(tmp_path / "out")]
    for command in (["push", unread, "me/rows", "--dry_run"],
                    ["relabel", "--rows", unread, "--output", str(tmp_path / "out"),
                     "--push_to_hub", "me/rows"],
                    ["train-retriever", *train, "--push_to_hub", "me/rows"]):  # fmt: skip
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "A token with write access to me/rows is needed" in said
        assert message in said
        assert token not in said
    assert hub.asked == ["whoami"] * 3


def test_a_hub_that_cannot_be_reached_is_said_before_there_is_something_to_push(
    hub: HubServer, unread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    command = ["relabel", "--rows", unread, "--output", str(tmp_path / "out")]
    assert main([*command, "--push_to_hub", "me/rows"]) == 2
    assert "The Hub (http://127.0.0.1:9) cannot be asked" in capsys.readouterr().err


def test_a_fault_of_the_hub_says_nothing_of_the_token(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": "q"}])
    for status in (429, 500):
        hub.fail("whoami", status)
        assert main(["push", str(tmp_path / "rows.jsonl"), "me/rows", "--dry_run"]) == 0


@pytest.mark.parametrize("command", ["train-retriever", "train-generator"])
def test_a_place_to_log_to_that_is_not_there_is_said_before_a_model_is_looked_for(
    command: str, unread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "transformers.integrations.get_available_reporting_integrations", lambda: ["trackio"]
    )
    train = [command, "--rows", unread, "--model", unread, "--output", str(tmp_path / "out")]
    wrong = {
        "foo": "--report_to: transformers logs to no 'foo', only to none, all, ",
        "tensorboard": "--report_to: 'tensorboard' is not installed. What there is: none, trackio",
    }
    for value, message in wrong.items():
        for dry in ([], ["--dry_run"]):
            assert main([*train, "--report_to", value, *dry]) == 2
            assert message in capsys.readouterr().err
    for value in ("none", "all", "trackio"):
        assert main([*train, "--report_to", value]) == 2
        assert f"--model {unread}" in capsys.readouterr().err
    check_report_to(["none"])
    check_report_to(["trackio"])
    with pytest.raises(ValueError, match="report_to: 'wandb' is not installed"):
        check_report_to(["trackio", "wandb"])


def test_columns_that_a_trainer_needs_are_asked_for_before_it_is_imported(
    minilm: str, tmp_path: Path
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": "q", "neg": ["b"]}] * 3)
    options = ["--rows", str(tmp_path / "rows.jsonl"), "--model", minilm, "--output"]
    code = (
        "import sys\nfrom rir_hf.cli.main import main\n"
        f"for name in ('retriever', 'generator'):\n"
        f" assert main(['train-' + name, *{options}, {str(tmp_path)!r} + '/' + name]) == 2\n"
        "assert not {'sentence_transformers', 'trl', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    of_retriever, of_generator = done.stderr.splitlines()
    assert "needs the column 'pos'" in of_retriever
    assert "needs the column 'prompt'" in of_generator


def test_a_model_without_a_chat_template_is_no_chat_model_before_the_rows_are_read(
    tiny_lm: str, unread: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_lm, bare)
    (bare / "chat_template.jinja").unlink()
    score = ["score", "--rows", unread, "--output", str(tmp_path / "out"), "--teacher"]
    answers = ["generate-answers", "--rows", unread, "--output", str(tmp_path / "out")]
    answers += ["--generate_model_path", str(bare)]
    without = f"{bare} has no chat template: use CompletionLLM"
    for command in ([*score, f"{{YesNo: {{llm: {bare}}}}}"], answers):
        assert main(command) == 2
        assert without in capsys.readouterr().err
    completion = f"{{QueryLikelihood: {{llm: {{CompletionLLM: {{model: {bare}}}}}}}}}"
    for command in ([*score, f"{{YesNo: {{llm: {tiny_lm}}}}}"], [*score, completion],
                    [*answers, "--model_type", "llm"]):  # fmt: skip
        assert main(command) == 2
        assert "has no chat template" not in capsys.readouterr().err


def test_a_config_that_cannot_be_pushed_is_refused_before_the_work(
    hub: HubServer, unread: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel = ["relabel", "--rows", unread, "--output", str(tmp_path / "out")]
    commands = {
        "--config_name": ["push", unread, "me/rows"],
        "--hub_config": [*relabel, "--push_to_hub", "me/rows"],
    }
    for option, command in commands.items():
        assert main([*command, option, "a/b"]) == 2
        assert f"{option} must be printable, without any of" in capsys.readouterr().err
    corpus = ["--config_name", "corpus", "--corpus", unread]
    assert main(["push", unread, "me/rows", *corpus]) == 2
    assert "give --config_name another name" in capsys.readouterr().err


def test_openai_is_not_asked_without_a_key(
    unread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["generate-answers", "--rows", unread, "--output", str(tmp_path / "out")]
    assert main([*command, "--generate_model_path", "gpt-4.1-mini", "--model_type", "gpt"]) == 2
    assert "set OPENAI_API_KEY, or name another server" in capsys.readouterr().err


def test_a_teacher_and_the_rows_it_reads_are_checked_before_its_corpus_is_embedded(
    minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"question": "q", "pos": ["a"], "neg": ["b"]}])
    rows = str(tmp_path / "rows.jsonl")
    command = ["score", "--rows", rows, "--corpus", rows]
    command += ["--output", str(tmp_path / "out"), "--teacher"]
    assert main([*command, f"{{RetrieverTeacher: {{retriever: {minilm}}}}}"]) == 2
    assert "needs the column 'query'" in capsys.readouterr().err
    assert main([*command, "{RetrieverTeacher: {retriever: me/none}}"]) == 2
    assert "--teacher: Retriever me/none: there is no such folder" in capsys.readouterr().err


def test_a_misspelt_option_is_said_with_the_one_that_was_meant(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["mine", "--corpus", "c", "--pairs", "p", "--output", "o"]
    assert main([*command, "--num_negative", "3"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean --num_negatives?\n")
    assert main([*command, "--xyzzy", "3"]) == 2
    assert "Did you mean" not in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("num_negative: 3\n")
    assert main([*command, "--config", str(tmp_path / "mine.yaml")]) == 2
    assert capsys.readouterr().err.endswith("Did you mean --num_negatives?\n")


def test_wrong_paths_and_numbers_are_said_with_their_options_before_anything_is_imported() -> None:
    wrong = {
        "report a.jsonl": "--rows a.jsonl does not exist",
        "report . --limit 0": "--limit must be at least 1, got 0",
        "embed --corpus . --model m --output o --texts_per_pass 0": "--texts_per_pass must be at",
        "mine --corpus a.csv --pairs ./b --model my/own/c --output o": (
            "--corpus a.csv does not exist; --pairs ./b does not exist; "
            "--model my/own/c does not exist"
        ),
        "fuse --runs a b.run --run_file c.run": "--runs a does not exist; --runs b.run does not",
        "score --rows a/ --teacher b.yaml --output o": "--rows a/ does not exist; --teacher b.yaml",
    }
    code = (
        f"import sys\nfrom rir_hf.cli.main import main\nfor line in {[*wrong]}:\n"
        " assert main(line.split()) == 2\n"
        "assert not {'datasets', 'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for said, message in zip(done.stderr.splitlines(), wrong.values(), strict=True):
        assert message in said


def test_without_a_connection_the_hub_is_named_and_not_asked_again(tmp_path: Path) -> None:
    commands = ["pull me/a --output o", "report me/a", "search me/a me/a --index bm25 --output o"]
    code = (
        f"from rir_hf.cli.main import main\nfor line in {commands}: assert main(line.split()) == 2"
    )
    nowhere = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=nowhere, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, lines
    assert all("Hub (http://127.0.0.1:9) cannot be asked" in line for line in lines), lines


def test_offline_a_name_that_is_no_folder_fails_at_once(unread: str, tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    started = time.monotonic()
    done = rir_hf("embed", "--corpus", unread, "--model", "typo", "--output", "o", **offline)
    assert "--model typo: there is no such folder" in done.stderr
    done = rir_hf("report", "typo", **offline)
    assert "typo is no file or folder here, and the Hub (" in done.stderr
    assert time.monotonic() - started < 60  # and not minutes of tries


@pytest.mark.slow
def test_each_step_has_its_bar_libraries_are_quiet_and_warnings_come_once_at_the_end(
    minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_DATASETS_DISABLE_PROGRESS_BARS")
    rows = [{"text": f"{number} text"} for number in range(60)]
    write_lines(tmp_path / "corpus.jsonl", rows)
    output = ["--output", str(tmp_path / "out")]
    done: subprocess.CompletedProcess[str] = rir_hf(
        "embed", "--corpus", str(tmp_path / "corpus.jsonl"), "--model", minilm, *output,
        HF_HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    bars = [line for line in lines if "%|" in line]
    assert {bar.partition(":")[0] for bar in bars} == {"Embed"}
    assert re.search(r"^Embed: 100%.* 60/60 \[.* rows/s\]", bars[-1])
    assert lines[-1].startswith("warning: ")
    assert "has no column of ids" in lines[-1]
    assert done.stderr.count("has no column of ids") == 1
    assert "Loading weights" not in done.stderr
    assert "Saving the dataset" not in done.stderr
    assert "HTTP" not in done.stderr


def test_a_table_is_written_once(tmp_path: Path) -> None:
    row = {"query": "Q?", "pos": ["a", "z"], "pos_scores": [0.0, 1.0], "neg": ["b", "c"]}
    row |= {"neg_scores": [3.0, -1.0]}
    write_lines(tmp_path / "scored.jsonl", [row] * 30)
    done = rir_hf("thresholds", "--rows", str(tmp_path / "scored.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "precision" in done.stdout
    assert "precision" not in done.stderr
