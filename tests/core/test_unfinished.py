"""Files that take their name when they are complete: nothing half written is ever seen or stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rir_hf.core.unfinished import (
    alone_in,
    remove_leftovers,
    replacing,
    take_place,
    unfinished,
    write_text,
)

WRITES = """
import sys, time
from pathlib import Path
from rir_hf.core.unfinished import unfinished
with unfinished(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as part:
    print(part, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_half_written_stays_while_its_writer_lives_and_is_removed_after(
    kind: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WRITES, str(tmp_path / "index-1"), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    part = Path(process.stdout.readline().strip())
    os.utime(part, (0, 0))
    remove_leftovers(tmp_path, "index-*")
    assert part.exists()
    process.kill()
    process.wait()
    remove_leftovers(tmp_path, "other-*")
    assert part.exists()
    remove_leftovers(tmp_path, "index-*")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_writer_and_a_forked_process_does_not_hold_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    reads, writes = os.pipe()
    with alone_in(folder):
        child = os.fork()
        if child == 0:  # lives on
            os.write(writes, b"here")
            time.sleep(600)
            os._exit(0)
        assert os.read(reads, 4) == b"here"
        refused = pytest.raises(BlockingIOError, match="run is written to by another process")
        with refused, alone_in(folder):
            pass
    try:
        with alone_in(folder):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.write_text("old")

    def write() -> None:
        with unfinished(path) as part:
            part.write_text("ne")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write()
    assert [file.name for file in tmp_path.iterdir()] == ["counts"]
    assert path.read_text() == "old"


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.write_text("old")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"


def test_a_rewritten_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    file, link = tmp_path / "measures.json", tmp_path / "link.json"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text("new", link)
    assert link.is_symlink()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)


def test_files_of_the_user_with_a_similar_name_stay(tmp_path: Path) -> None:
    names = [".index-1.part", "index-1.part", ".index-1-abc.part", ".index-1"]
    for name in names:
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path, "index-*")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_takes_the_place_of_another_whole_or_not_at_all(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:  # as where the system cannot let two folders change places
        monkeypatch.setattr(sys, "platform", "darwin")
    place = tmp_path / "result"
    place.mkdir()
    (place / "old").touch()

    def write(*names: str) -> None:
        with replacing(place, folder=True) as part:
            for name in names:
                (part / name).touch()
            if not names:
                raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write()
    assert [file.name for file in place.iterdir()] == ["old"]
    write("new", "newer")
    assert sorted(file.name for file in place.iterdir()) == ["new", "newer"]
    assert [file.name for file in tmp_path.iterdir()] == ["result"]


def test_the_old_folder_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "row").touch()
    with pytest.raises(FileNotFoundError):
        take_place(tmp_path / "never written", tmp_path / "old")
    assert [file.name for file in tmp_path.rglob("*")] == ["old", "row"]
