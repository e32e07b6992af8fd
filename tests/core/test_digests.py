"""Digests of files: computed again exactly where the files have changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rir_hf import load_rows
from rir_hf.core.digests import digest_of, remembered


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that is there was written a while ago."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)


def replace_unseen(path: Path, content: bytes) -> None:
    """Change what a file holds, but neither its size nor its time."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_digest_is_of_the_content_wherever_it_lies_and_however_old_it_looks(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "weights").write_bytes(b"one")
    shutil.copytree(first, second)
    (second / "README.md").write_text("Not content.")
    os.utime(second / "weights", (0, 0))
    assert digest_of(first) == digest_of(second)
    os.rename(second / "weights", second / "others")
    assert digest_of(first) != digest_of(second)


@pytest.mark.usefixtures("later")
def test_a_file_that_was_replaced_unseen_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = digest_of(path)
    replace_unseen(path, b"two")
    assert digest_of(path) != before


@pytest.mark.usefixtures("later")
def test_a_link_that_leads_elsewhere_now_has_another_digest(tmp_path: Path) -> None:
    for name, content in {"one": b"one", "two": b"two"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(content)
        os.utime(tmp_path / name / "weights", (0, 0))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    before = digest_of(link)
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert digest_of(link) != before


@pytest.mark.usefixtures("later")
def test_one_file_under_two_names_has_two_digests(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"one")
    for folder, name in (("first", "weights"), ("second", "settings")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(tmp_path / "blob")
    assert digest_of(tmp_path / "first") != digest_of(tmp_path / "second")


@pytest.mark.usefixtures("later")
def test_the_long_way_is_gone_once_in_all_processes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    asked: list[str] = []

    def compute() -> str:
        asked.append("again")
        return "a digest"

    assert [remembered(["test"], [path], compute) for _ in range(3)] == ["a digest"] * 3
    assert remembered(["another test"], [path], compute) == "a digest"
    assert len(asked) == 2
    code = (
        "import sys; from pathlib import Path; from rir_hf.core.digests import remembered\n"
        "print(remembered(['test'], [Path(sys.argv[1])], lambda: 'computed'))"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "a digest"
    replace_unseen(path, b"two")
    assert remembered(["test"], [path], compute) == "a digest"
    assert len(asked) == 3


def test_a_file_that_has_just_been_written_is_not_trusted_to_stay(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    found = iter(["first", "second"])
    assert remembered(["test"], [path], lambda: next(found)) == "first"
    assert remembered(["test"], [path], lambda: next(found)) == "second"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "folder/rows.jsonl"])
def test_rows_of_a_file_that_was_replaced_unseen_are_the_new_ones(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    line = b"text\n%b\n" if path.suffix == ".csv" else b'{"text": "%b"}\n'
    path.write_bytes(line % b"one")
    source = path.parent if "/" in name else path
    assert load_rows(source)["text"][:] == ["one"]
    replace_unseen(path, line % b"two")
    assert load_rows(source)["text"][:] == ["two"]
