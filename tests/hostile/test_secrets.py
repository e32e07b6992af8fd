"""No key is left in anything that a run leaves: files, streams, rows, records, caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli.conftest import write_lines
from tests.openai_server import OpenAIServer, Reply, completion, failure

KEY = "sk-the-one-that-was-given/42"
BODY_KEY = "tok.in-the-body.17"
BEARER = "plainwordbearer"
FROM_ENVIRONMENT = "hf_only-in-the-environment-9"
SECRETS = (KEY, BODY_KEY, BEARER, FROM_ENVIRONMENT)


def run_command(folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """`rir-hf` in a process of its own, with all that it writes below the folder."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "TMPDIR": str(folder),
        "MY_SERVICE_TOKEN": FROM_ENVIRONMENT,
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-m", "rir_hf.cli.main", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )


def leaks_in(folder: Path, done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """The files and streams with a secret in them."""
    places = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    places |= {"stdout": done.stdout, "stderr": done.stderr}
    return [
        f"{secret} in {place}"
        for place, content in places.items()
        for secret in SECRETS
        if secret.encode() in content
    ]


def teacher(server: OpenAIServer, **more: Any) -> str:
    """A teacher as it is given to the command, with a line break behind its key."""
    llm = {
        "model": "any",
        "base_url": server.base_url,
        "api_key": f"\t{KEY}\n",
        "max_retries": 0,
        "extra_body": {"authToken": BODY_KEY, "more": [{"bearer": BEARER}]},
    }
    return json.dumps({"Listwise": {"llm": {"OpenAIChat": llm | more}}})


def test_a_server_that_echoes_the_keys_leaves_them_in_no_file_and_no_stream(tmp_path: Path) -> None:
    said = " and ".join(f"<{secret}>" for secret in SECRETS)

    def answer(body: dict[str, Any], _: int) -> Reply:
        prompt = body["messages"][-1]["content"]
        if "refused" in prompt:
            return failure(400, said)
        return completion(said if "odd" in prompt else f"[2] > [1] {said}")

    rows = tmp_path / "rows.jsonl"
    queries = ["fine", "refused", "odd", "fine too"]
    write_lines(rows, [{"query": query, "pos": ["a fox"], "neg": ["a dog"]} for query in queries])
    with OpenAIServer(answer) as server:
        options = ("--rows", str(rows), "--teacher", teacher(server), "--output", "scored")
        done = run_command(tmp_path, "score", *options)
        sent = {request.authorization for request in server.requests}
    assert done.returncode == 0, done.stderr.decode()
    assert sent == {f"Bearer {KEY}"}
    assert leaks_in(tmp_path, done) == []
    assert any("***" in path.read_text(errors="replace") for path in tmp_path.rglob("*.arrow"))


def test_an_error_that_ends_a_command_names_no_key(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_lines(rows, [{"query": "why", "pos": ["a fox"], "neg": ["a dog"]}])
    with OpenAIServer(lambda body, _: failure(401, " ".join(SECRETS))) as server:
        for given in (teacher(server), teacher(server, no_such_option=1)):
            options = ("--rows", str(rows), "--teacher", given, "--output", "scored")
            done = run_command(tmp_path, "score", *options)
            assert done.returncode == 2
            assert leaks_in(tmp_path, done) == []
