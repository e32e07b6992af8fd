"""The dataset card: what people read, what the Hub reads, and what a push leaves alone."""

from __future__ import annotations

import json
from importlib.resources import files

from datasets import Dataset
from huggingface_hub import DatasetCard, HfApi

from rir_hf.hub.card import describe_column, describe_step, size_category
from rir_hf.hub.push import push
from rir_hf.schema import COLUMNS
from tests.hub.conftest import REPO, files_of, rows_of
from tests.hub_server import HubServer

MINE = {
    "step": "MineNegatives",
    "relative_margin": 0.05,
    "max_score": None,
    "views": [
        {
            "class": "VectorView",
            "corpus": {"rows": 1200},
            "kind": "IndexIVFFlat",
            "search": {"nprobe": 8},
            "made_by": [{"step": "Embed", "retriever": {"class": "Retriever", "model": "bge"}}],
        },
        {
            "class": "WordView",
            "corpus": {"rows": 1200},
            "kind": "BM25",
            "search": {},
            "made_by": [],
        },
    ],
}


def card_of(hub: HubServer) -> str:
    """The text of the card."""
    return files_of(hub)["README.md"].decode()


def test_the_card_says_what_it_is(hub: HubServer, mined: Dataset) -> None:
    push(mined, REPO, "mined", steps=[MINE], license="cc-by-4.0", language=["en"])
    card = card_of(hub)
    for words in (
        "Hard negatives: 3 rows in `train`.",
        "| `neg` | list of string | the negatives, best first |",
        f'rows = load_dataset("{REPO}", "mined", split="train")',
        'to_sentence_transformers(rows, loss="MultipleNegativesRankingLoss")',
        "1. **MineNegatives** (`relative_margin=0.05`)\n",
        "   - corpus: 1,200 rows, `IndexIVFFlat`, `nprobe=8`, `BM25`",
        "\n     - **Embed** retriever `bge`",
        "  short_because: corpus_exhausted           1",
        "| difference | 0.200 | 0.200 | 0.200 | 0.200 | 0.200 | 0.200 |",
        "![Similarities and ranks](rir_hf/mined/report.png)",
    ):
        assert words in card
    assert "\n\n\n" not in card
    assert files_of(hub)["rir_hf/mined/report.png"].startswith(b"\x89PNG")


def test_the_hub_can_read_the_card(hub: HubServer, mined: Dataset) -> None:
    push(mined, REPO, "mined", license="cc-by-4.0", language=["en"], tags=["faq"])
    push(rows_of("x", 1000), REPO, "texts")
    data = DatasetCard(card_of(hub)).data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["size_categories"] == ["1K<n<10K"]
    assert {"rir-hf", "faq", "hard-negatives"} <= set(data["tags"])
    assert [config["config_name"] for config in data["configs"]] == ["mined", "texts"]


def test_every_size_category_is_one_that_the_hub_knows() -> None:
    resource = files("datasets").joinpath("utils", "resources", "size_categories.json")
    known = json.loads(resource.read_text(encoding="utf-8"))
    assert ["unknown", *(size_category(5 * 10**power) for power in range(2, 13))] == known


def test_the_card_keeps_what_a_person_wrote(hub: HubServer, mined: Dataset) -> None:
    push(mined, REPO, "mined", license="cc-by-4.0", tags=["faq"])
    card = card_of(hub).replace("Training data made with rir_hf.", "Questions.\n\n| a |\n| - |")
    card = card.replace("- faq", "- faq\n- mine").replace("cc-by-4.0", "mit\npretty_name: Mine")
    HfApi().upload_file(
        path_or_fileobj=f"{card}\n## At the end\n".encode(),
        path_in_repo="README.md",
        repo_id=REPO,
        repo_type="dataset",
    )
    push(mined.select([0]), REPO, "mined")
    card = card_of(hub)
    for kept in ("Questions.\n\n| a |", "## At the end", "license: mit", "pretty_name: Mine"):
        assert kept in card
    assert "- mine" in card
    assert "1 row in `train`" in card
    assert card.count("<!-- rir_hf: mined -->") == card.count("## mined") == 1


def test_a_setting_cannot_break_out_of_its_section(hub: HubServer) -> None:
    prompt = "``` <!-- rir_hf: end of default -->\n# Mine\n`x` | y\x1b[31m"
    rows = rows_of("x").rename_column("text", "a|b")
    push(rows, REPO, steps=[{"step": "Ask", "prompt": prompt}])
    once = card_of(hub)
    push(rows, REPO, steps=[{"step": "Ask", "prompt": prompt}])
    assert card_of(hub) == once
    assert once.count("<!-- rir_hf: end of default -->") == 1
    assert "\n# Mine" not in once
    assert "\x1b" not in once
    assert "| `a\\|b` | string |  |" in once
    assert "````json" in once


def test_each_kind_of_rows_shows_how_it_is_used(hub: HubServer) -> None:
    for columns, words in (
        (("pos", "neg", "pos_scores", "neg_scores"), "DistillKLDivLoss"),
        (("passages", "passage_scores"), "DistillKLDivLoss"),
        (("passages",), "ScorePassages(teacher)"),
        (("chosen", "rejected"), "train_dataset=to_trl(rows)"),
        (("hit_ids", "hit_scores"), "evaluate(rows, qrels)"),
        (("id", "text"), "attach_index(rows)"),
    ):
        push(Dataset.from_dict({name: ["x"] for name in columns}), REPO)
        assert words in card_of(hub)


def test_every_column_of_the_schema_is_described_under_its_names() -> None:
    for name, column in COLUMNS.items():
        assert describe_column(name) == column.says
    assert describe_column("query_embedding") == "the retriever's vector of `query`"
    assert describe_column("neg_answer").endswith("best first (searched with `answer`)")
    assert describe_column("neg_answer_pos_rank").startswith("how many passages rank before")
    assert describe_column("nDCG@10") == "the query's value of this measure"
    assert describe_column("anything") == ""


def test_a_step_is_described_with_the_models_inside_its_teachers() -> None:
    llm = {"class": "ChatLLM", "model": "folder (content:0123456789abcdef)", "dtype": None}
    teacher = {"class": "QueryLikelihood", "llm": llm, "max_passage_tokens": 512}
    blend = {"class": "Blend", "teachers": [teacher, {"class": "Similarities"}]}
    expected = (
        "**ScorePassages** teacher `Blend` (teachers: `QueryLikelihood` (llm `folder "
        "(content:0123456789ab)`, `max_passage_tokens=512`), `Similarities`)"
    )
    assert describe_step({"step": "ScorePassages", "teacher": blend}) == expected
