"""GGUF files: named, unpacked once, and identified by their content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rir_hf.models.local import ChatLLM


def test_a_gguf_file_must_be_there_and_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gguf_file='no.gguf' is not in the folder"):
        ChatLLM(tmp_path, gguf_file="no.gguf")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"name one, gguf_file='model.gguf'"):
        ChatLLM(tmp_path)


def test_a_gguf_file_is_its_content_whatever_its_name_or_place(tmp_path: Path) -> None:
    for name, content in (("a.gguf", b"one"), ("b.gguf", b"one"), ("c.gguf", b"two")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (ChatLLM(tmp_path, gguf_file=f"{name}.gguf") for name in "abc")
    assert one.key() == same.key() != other.key()
    assert str(one.record()["model"]).startswith("a.gguf (content:")


@pytest.mark.slow
def test_a_gguf_file_is_unpacked_once_and_talks(smollm: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = smollm
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from rir_hf.models.local import ChatLLM\n"
        "llm = ChatLLM(sys.argv[1], gguf_file=sys.argv[2])\n"
        "print(llm.generate(['What is the capital of France?'], max_tokens=12)[0][0])\n"
    )
    runs = []
    for _ in range(2):
        environment = {**os.environ, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", code, str(folder), name]
        runs.append(
            subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=600, check=True
            )
        )
    assert "Paris" in runs[0].stdout
    assert runs[0].stdout == runs[1].stdout
    assert "Unpacking" in runs[0].stderr
    assert "Unpacking" not in runs[1].stderr
    [unpacked] = (tmp_path / "rir_hf" / "gguf").iterdir()
    assert "quantization_config" not in (unpacked / "config.json").read_text()
