"""The README's session with the original's functions, its code run as it stands."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from rir_hf import Retriever

COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", Path(__file__).parents[2] / "shared" / "data"))


def run_session(folder: Path, minilm: str) -> list[dict]:
    """Run the README's block in the folder, which holds a collection `scifact`; return the rows it mined."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    block = next(code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "max_steps=20" in code)
    names: dict = {}
    exec(block.replace("sentence-transformers/all-MiniLM-L6-v2", minilm), names)  # noqa: S102 - the README's own code
    assert names["mined"].to_list() == names["rows"]
    assert json.loads((folder / "tuned" / "checkpoint-20" / "trainer_state.json").read_text())["global_step"] == 20
    before, after = (Retriever(str(model)) for model in (minilm, folder / "tuned"))
    assert not np.allclose(*(model.encode_queries(["How is radon measured?"]) for model in (before, after)), atol=1e-3)
    return names["rows"]


def test_two_hundred_pairs_become_a_trained_model(
    faq_file: Path, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faq = [json.loads(line) for line in faq_file.read_text(encoding="utf-8").splitlines()]
    lines = {"corpus": [{"_id": row["id"], "text": row["a"][:100]} for row in faq]}
    lines["queries"] = [{"_id": row["id"], "text": row["q"]} for row in faq]
    (tmp_path / "scifact" / "qrels").mkdir(parents=True)
    for name, rows in lines.items():
        (tmp_path / "scifact" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"{row['id']}\t{row['id']}\t1\n" for row in faq)
    (tmp_path / "scifact" / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    monkeypatch.chdir(tmp_path)
    rows = run_session(tmp_path, minilm)
    assert [(row["query"], row["pos"]) for row in rows] == [(row["q"], [row["a"][:100]]) for row in faq[:200]]
    assert {len(row[name]) for row in rows for name in ("neg", "neg_answer")} == {15}


@pytest.mark.slow
@pytest.mark.skipif(not (COLLECTIONS / "scifact").exists(), reason="SciFact is not here: name its folder in RIR_HF_COLLECTIONS")
def test_two_hundred_pairs_of_scifact_become_a_trained_model(minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scifact").symlink_to((COLLECTIONS / "scifact").resolve())
    monkeypatch.chdir(tmp_path)
    assert len(run_session(tmp_path, minilm)) == 200
