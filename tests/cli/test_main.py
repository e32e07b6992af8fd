"""The command line as a whole: help, errors, exit codes."""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rir_hf.cli.main import COMMANDS, Log, explain, main


def rir_hf(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "rir_hf.cli.main", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from rir_hf import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rir-hf {__version__}\n"


def test_every_command_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    explained = re.compile(
        r"[a-z_]+ (\[?[A-Z_{][^ ]*\]?(, --\S+ \S+)? )?\S+ .*\((required, )?type: "
    )
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        said = capsys.readouterr().out
        assert f"usage: rir-hf {name}" in said
        options = [" ".join(option.split()) for option in said.split("\n  --")[1:]]
        unexplained = {option.split()[0] for option in options if not explained.match(option)}
        assert unexplained <= {"config", "print_config"}, name


def test_help_imports_nothing_heavy_and_the_list_of_commands_no_command() -> None:
    heavy = ("datasets", "torch", "transformers", "numpy", "pyarrow", "sentence_transformers")
    code = (
        "import sys\nfrom rir_hf.cli.main import COMMANDS, main\nmain(['--help'])\n"
        "modules = {'jsonargparse', *(f'rir_hf.cli.{name}' for name in COMMANDS)}\n"
        "assert not modules & set(sys.modules)\n"
        "for name in COMMANDS: main([name, '--help'])\n"
        f"assert not set({heavy}) & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a command"),
        (["mien"], "Did you mean 'mine'"),
        (["mine"], "required: corpus, pairs, output"),
        (["mine", "--nothing", "1"], "--nothing"),
        (["export"], "--format must be one of 'sentence-transformers', 'flagembedding'"),
        (
            ["unnest", "--rows", ".", "--columns", "{a: b}", "--output", "/dev/null/x"],
            "/dev/null",
        ),
        (
            ["score", "--rows", "r", "--output", "x", "--teacher", "{Judge: {}}"],
            "no teacher 'Judge'",
        ),
        (["report", "--rows", "me/nothing-of-this-name"], "me/nothing-of-this-name"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("rir-hf")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_an_unknown_column_is_named_with_those_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "passage": "p"}\n')
    rows, output = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    assert (
        main(["unnest", "--rows", rows, "--columns", "{queries: query}", "--output", output]) == 2
    )
    said = capsys.readouterr().err
    assert "'queries'" in said
    assert "question" in said
    assert not Path(output).exists()


def test_a_process_ends_as_the_function_says(tmp_path: Path) -> None:
    done = rir_hf("report", "--rows", str(tmp_path / "none.jsonl"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rir-hf report: --rows {tmp_path}/none.jsonl does not exist\n"


def test_offline_the_line_says_so_at_once(tmp_path: Path) -> None:
    pull = ["pull", "--repo", "me/rows", "--output", str(tmp_path / "out")]
    done = rir_hf(*pull, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("rir-hf pull: no connection")  # no try before it
    assert "Offline" in done.stderr


def test_a_mistake_in_the_code_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(rows: str) -> None:
        raise AssertionError(rows)

    monkeypatch.setattr(importlib.import_module("rir_hf.cli.report"), "command", wrong)
    with pytest.raises(AssertionError, match="here"):
        main(["report", "--rows", "here"])


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(rows: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("rir_hf.cli.report"), "command", stopped)
    assert main(["report", "--rows", "here"]) == 130


def test_a_missing_extra_is_an_error_of_the_user(
    faq_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "openai", None)
    command = f"generate-answers --rows {faq_file} --query q --output {tmp_path / 'out'}"
    assert main([*command.split(), "--generate_model_path", "any", "--model_type", "gpt"]) == 2
    assert "rir-hf[openai]" in capsys.readouterr().err.splitlines()[-1]


def test_a_line_has_no_control_characters_and_says_the_cause() -> None:
    error = RuntimeError("It failed.")
    error.__cause__ = ValueError("bad\x1b[31m\nrow")
    assert explain(error) == "It failed: bad [31m row"


def test_warnings_of_one_step_are_said_once_and_those_of_others_too() -> None:
    log = Log()
    log.stream = io.StringIO()
    for step, remark in (("Embed", "1 cut"), ("Embed", "2 cut"), ("MineNegatives", "other")):
        values = {"msg": "%s: %s", "args": (step, remark), "levelno": logging.WARNING}
        log.handle(logging.makeLogRecord(values))
    log.say_warnings()
    assert log.stream.getvalue().splitlines() == [
        "warning: Embed: 1 cut (the first of 2 such warnings)",
        "warning: MineNegatives: other",
    ]
