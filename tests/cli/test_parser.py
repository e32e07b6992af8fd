"""Options from signatures, a command line and YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rir_hf.cli.parser import OptionError, completed, read_arguments


@dataclass
class Paper:
    """Paper.

    Args:
        size: its size.
    """

    size: str
    sheets: int = 1


def copy(
    paper: Paper,
    source: str,
    times: int | None = None,
    dark: bool = False,
    of: list[str] | None = None,
) -> None:
    """Copy a page.

    copy --source page

    Args:
        source: what is copied.
        times: how often.
        dark: darker.
        of: names.
    """


def read(*arguments: str) -> dict[str, object]:
    return read_arguments(copy, arguments, "copy")


def test_a_command_line_gives_values_to_parameters_and_groups() -> None:
    values = read("--source", "a", "--size", "A4", "--dark", "--of", "x", "10", "--times", "-1")
    expected = {"source": "a", "times": -1, "dark": True, "of": ["x", "10"]}
    assert values == {"paper": Paper("A4"), **expected}


def test_values_that_come_first_are_those_of_the_options_without_a_default() -> None:
    values = read("a", "--size", "A4")
    assert values == read("--source", "a", "--size", "A4")


def test_a_list_may_have_commas_a_flag_a_value_and_a_name_hyphens() -> None:
    assert completed(["--of", "x,y", "--dark", "false"], {"of": list[str], "dark": bool}) == [
        '--of=["x", "y"]',
        "--dark",
        "false",
    ]
    assert completed(["--num-negatives=3", "--a-b"], {"a_b": bool}) == [
        "--num_negatives=3",
        "--a_b=true",
    ]


def test_yaml_holds_all_options_and_the_command_line_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "copy.yaml"
    file.write_text("source: a\nsize: A4\nsheets: 7\ndark: true\nof: [x, y]\ntimes: 2\n")
    values = read("--config", str(file), "--times", "3")
    assert values == {
        "paper": Paper("A4", 7),
        "source": "a",
        "times": 3,
        "dark": True,
        "of": ["x", "y"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "A4"], "source"),
        (["--source", "a", "--size", "A4", "--times", "2.5"], "--times must be int .*, got 2.5"),
        (["--source", "a", "--size", "A4", "--paper", "3"], "--paper"),
        (["--source", "a", "--size", "A4", "--config", "none.yaml"], "--config.*none.yaml"),
        (["a"], "size"),
        (["a", "b", "--size", "A4"], "'b' belongs to no option; .* --source"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message) as raised:
        read(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["[1", "colour: red", "a: \x00"])
def test_a_bad_configuration_file_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "copy.yaml"
    file.write_text(content)
    with pytest.raises(OptionError):
        read("--source", "a", "--size", "A4", "--config", str(file))


def test_help_is_made_of_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    said = capsys.readouterr().out
    assert "Copy a page.\n\ncopy --source page\n" in said
    assert "what is copied. (required, type: str)" in said
    assert "its size." in said.partition("Paper:")[2]
