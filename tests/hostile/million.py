"""Every step over a million rows: rows a second, and how far memory grows with the rows.

`python -m tests.hostile.million` prints a table of 100,000 and 1,000,000 rows; `--rows 20000` tries
fewer, and names of steps behind it only those. Each runs in a process of its own, over rows that
lie on the disk, with stand-ins for models that answer at once.

Two peaks are told. `RSS` is what the process had in memory at most; in it are the pages of files
that are mapped, which the system takes away where memory is short. `own` is the part that it cannot
(RssAnon): that is what must not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.hub_server import TOKEN

MEGABYTE = 1 << 20


class Measured(NamedTuple):
    """A step over so many rows.

    rows: how many came out.
    seconds: what the step took, without the start of Python and the check of the rows.
    peak: RSS at most, in MB.
    own: RssAnon at most, in MB.
    """

    rows: int
    seconds: float
    peak: float
    own: float


def measured(name: str, inputs: Path, work: Path) -> Measured:
    """Run a step in a process of its own.

    Args:
        name: of the step, see `tests.hostile.million_steps`.
        inputs: what `write_inputs` wrote.
        work: a folder for what it writes, deleted afterwards.
    """
    work.mkdir(parents=True)
    environment = {
        **os.environ,
        "HF_HOME": str(work / "home"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(work),
    }
    if name.startswith("push"):
        with hub() as url:
            environment |= {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
            return _measured(name, inputs, work, environment)
    return _measured(name, inputs, work, environment)


@contextmanager
def hub() -> Iterator[str]:
    """The address of a Hub that has a process of its own, since it keeps all in memory."""
    code = "import sys; from tests.hub_server import HubServer; print(HubServer().url, flush=True)"
    command = [sys.executable, "-c", f"{code}; sys.stdin.read()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.communicate()


def _measured(name: str, inputs: Path, work: Path, environment: dict[str, str]) -> Measured:
    command = [sys.executable, "-m", "tests.hostile.million_steps", name, str(inputs), str(work)]
    own = 0
    try:
        with (work / "said").open("w+") as said:
            child = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
            while child.poll() is None:
                own = max(own, _own_memory(child.pid))
                time.sleep(0.01)
            said.seek(0)
            text = said.read()
        if child.returncode:
            raise RuntimeError(f"{name} over {inputs.name}: {text[-3000:]}")
        found = json.loads(text.splitlines()[-1])
    finally:
        shutil.rmtree(work)
        for left in inputs.glob("*/cache-*.arrow"):
            left.unlink()
    return Measured(found["rows"], found["seconds"], found["peak"] / 1024, own / MEGABYTE)


def _own_memory(process: int) -> int:
    """Anonymous memory of a process in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Print the table."""
    from tests.hostile.million_steps import STEPS, write_inputs

    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("steps", nargs="*", metavar="step", help="default: all")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    few, many = options.rows // 10, options.rows
    folder = Path(tempfile.mkdtemp(prefix="rir-hf-million-"))
    _say(f"| step | rows/s | own MB at {few:,} | at {many:,} | RSS MB at {few:,} | at {many:,} |")
    _say("| --- | ---: | ---: | ---: | ---: | ---: |")
    try:
        inputs = [write_inputs(folder / str(rows), rows) for rows in (few, many)]
        for name in options.steps or STEPS:
            try:
                low, high = (measured(name, part, folder / "work") for part in inputs)
            except RuntimeError as error:
                sys.stderr.write(f"{error}\n")
                _say(f"| {name} | failed | | | | |")
                continue
            figures = (low.own, high.own, low.peak, high.peak)
            told = " | ".join(f"{figure:,.0f}" for figure in figures)
            _say(f"| {name} | {many / high.seconds:,.0f} | {told} |")
    finally:
        shutil.rmtree(folder)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
