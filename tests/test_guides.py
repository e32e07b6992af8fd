"""Every Python block of the README and of the guides runs, in order, as a reader would type it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from rir_hf.schema import table_of_codes, table_of_columns

ROOT = Path(__file__).parents[1]
GUIDES = sorted(
    [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *ROOT.glob("rir_hf/*/*.md")]
)


def blocks_of(guide: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.S | re.M)


def guides() -> list[Any]:
    """All of them; the one about moving over, which runs other packages, for the slow tests."""
    marks = {"MOVING.md": [pytest.mark.slow]}
    return [
        pytest.param(guide, marks=marks.get(guide.name, []), id=str(guide.relative_to(ROOT)))
        for guide in GUIDES
    ]


@pytest.mark.parametrize("guide", guides())
def test_the_blocks_of_a_guide_run_in_order(
    guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "guide.py"
    script.write_text("\n\n".join(blocks_of(guide)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))


def with_tables(text: str) -> str:
    """A guide with its tables of columns and codes as the schema has them."""

    def table(match: re.Match[str]) -> str:
        kind, names = match[1], match[2].split()
        made = table_of_columns(names) if kind == "columns" else table_of_codes(names[0])
        return f"<!-- {kind}: {match[2]} -->\n{made}\n"

    return re.sub(r"<!-- (columns|codes): ([a-z_ ]+) -->\n(?:\|.*\n)*", table, text)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_columns_are_those_of_the_schema(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert text == with_tables(text), f"run python -m tests.test_guides to write {guide} anew"


def test_every_command_that_the_guides_show_is_one() -> None:
    from rir_hf.cli.main import COMMANDS

    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M):
            for command in re.findall(r"^rir-hf ([a-z-]+)", block, re.M):
                assert command in COMMANDS, f"{guide}: rir-hf {command}"


if __name__ == "__main__":
    for path in GUIDES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
