"""What a config holds in, a section of the dataset card out: Markdown for people and YAML for the Hub.

Each config has a section of its own between two comments. A push writes its own section anew and leaves everything else in the card
as it is, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData

from rir_hf.report import as_table

_SETTINGS_SHOWN = 60
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MORE = "n>10M"

KINDS = {
    "preferences": "Preference pairs",
    "scored": "Hard negatives with a teacher's scores",
    "mined": "Hard negatives",
    "run": "A retrieval run",
    "corpus": "A corpus of passages",
    "rows": "Rows",
}
_TAGS = {
    "preferences": ["dpo", "preference-pairs"],
    "scored": ["hard-negatives", "distillation", "sentence-transformers"],
    "mined": ["hard-negatives", "sentence-transformers"],
    "run": ["information-retrieval"],
    "corpus": ["information-retrieval"],
    "rows": [],
}
_TASKS = {"preferences": ["text-generation"], "rows": []}

_COLUMNS = {
    "id": "passage id",
    "query_id": "query id",
    "title": "title of the passage",
    "text": "passage",
    "query": "query",
    "passage": "the query's positive passage",
    "answer": "hypothetical answer, written by a language model",
    "answers": "hypothetical answers, written by a language model",
    "prompt": "what the language model was asked",
    "pos": "positive passages",
    "pos_ids": "their ids in the corpus",
    "pos_sims": "the retriever's similarities of `pos`; null for one that is not in the corpus",
    "pos_rank": "how many passages of the corpus rank before the best positive",
    "pos_scores": "the teacher's scores of `pos`, higher is better",
    "neg_scores": "the teacher's scores of `neg`, in the same order",
    "pos_raw_scores": "the teacher's scores of `pos` before they were blended with the retriever's",
    "neg_raw_scores": "the teacher's scores of `neg` before they were blended with the retriever's",
    "teacher": "method and digest of the teacher",
    "teacher_error": "why the teacher failed on this row; null where it did not",
    "teacher_cut": "how many passages were cut to fit the teacher",
    "teacher_repairs": "what had to be repaired in the teacher's rankings",
    "relabeled": "how many negatives the teacher took for positives",
    "query_number": "which of the queries written for the passage",
    "query_error": "why there is no query; null where there is one",
    "dropped_query": "the query that the check turned down",
    "query_quality": "log-odds of Yes against No, that the passage fits the query",
    "passage_cut": "whether the passage was cut to fit the generator",
    "answers_dropped": "answers that were dropped, by reason",
    "answers_asked": "how many answers were asked for",
    "answer_error": "why there is no answer; null where there is one",
    "chosen": "the better answer, or the messages with it",
    "rejected": "the worse answer, or the messages with it",
    "chosen_score": "how well the retriever finds the passage with the better answer",
    "rejected_score": "how well it finds it with the worse answer",
    "query_score": "how well it finds it with the query alone",
    "pair_error": "why the row gives no pair; null where it does",
    "hit_ids": "ids of the retrieved passages, best first",
    "hit_scores": "their scores",
    "chat_template_kwargs": "what the chat template is told",
}
_ENDINGS = {
    "_embedding": "vectors of `{0}`",
    "_pos_sims": "the retriever's similarities of the positives, searched for `{0}`",
    "_pos_rank": "how many passages rank before the best positive, searched for `{0}`",
    "_ids": "ids of `{0}` in the corpus",
    "_sims": "the retriever's similarities of `{0}`",
    "_note": "why there are fewer in `{0}` than asked; empty where there are not",
    "_skipped": "how many better-ranked passages each rule left out of `{0}`",
}
_DIGEST = re.compile(r"\b(content|weights):(\w{12})\w+")
_METRIC = re.compile(r"[A-Za-z]+@\d+")

_TRAIN = {
    "mined": """\
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from rir_hf import to_sentence_transformers

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")  # the one to train
data = to_sentence_transformers(rows, loss="MultipleNegativesRankingLoss")
SentenceTransformerTrainer(model=model, train_dataset=data, loss=MultipleNegativesRankingLoss(model)).train()""",
    "scored": """\
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from sentence_transformers.util import pairwise_cos_sim
from rir_hf import to_sentence_transformers

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")  # the one to train
data = to_sentence_transformers(rows, loss="DistillKLDivLoss", rescale="zscore")
loss = DistillKLDivLoss(model, lambda *texts: 20 * pairwise_cos_sim(*texts))
SentenceTransformerTrainer(model=model, train_dataset=data, loss=loss).train()""",
    "preferences": """\
from trl import DPOTrainer
from rir_hf import to_trl

DPOTrainer(model="Qwen/Qwen3-0.6B", train_dataset=to_trl(rows)).train()  # the model to train""",
    "preferences of messages": """\
from trl import DPOTrainer

DPOTrainer(model="Qwen/Qwen3-0.6B", train_dataset=rows).train()  # the model to train""",
    "corpus": """\
from rir_hf import Embed, MineNegatives, attach_index

corpus = rows if rows.list_indexes() else attach_index(rows)
pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)  # pairs of query and passage; the corpus's retriever
mined = pairs.map(MineNegatives(corpus), batched=True)""",
    "run": """\
from rir_hf import evaluate_better

evaluate_better(["ndcg", "recall", "mrr"], [10], qrels, rows)  # qrels: {query_id: {passage_id: grade}}""",
}


def kind_of(columns: list[str]) -> str:
    """Which of `KINDS` rows with these columns are."""
    has = set(columns).issuperset
    checks = {
        "preferences": has({"chosen", "rejected"}),
        "scored": has({"pos", "neg", "pos_scores", "neg_scores"}),
        "mined": has({"pos", "neg"}),
        "run": has({"hit_ids", "hit_scores"}),
        "corpus": has({"id", "text"}),
    }
    return next((kind for kind, fits in checks.items() if fits), "rows")


def write_section(
    repo_id: str,
    config: str,
    features: Features,
    rows: Mapping[str, int],
    steps: list[dict[str, Any]],
    *,
    versions: Mapping[str, str],
    summary: Mapping[str, Any] | None,
    plot: str | None,
    index: Mapping[str, Any] | None,
) -> str:
    """The section of one config.

    Args:
        repo_id, config: where it is.
        features: its columns.
        rows: number of rows of each split.
        steps: its provenance.
        versions: of the packages it was made with.
        summary: the report on it, if there is one.
        plot: path of the report's picture in the repository.
        index: identity of the index beside it.
    """
    kind = kind_of(list(features))
    sizes = ", ".join(f"{number:,} {'row' if number == 1 else 'rows'} in `{split}`" for split, number in rows.items())
    parts = [f"## {config}", f"{KINDS[kind]}: {sizes}.", _columns_table(features)]
    split = next(iter(rows)) if len(rows) == 1 else None
    parts += ["### Load", _code(_load(repo_id, config, split), "python")]
    train = "preferences of messages" if _is_conversational(features) else kind
    if train in _TRAIN:
        chosen = [] if split else [f'rows = rows["{next(iter(rows))}"]']
        parts += ["### Use", _code("\n".join([*chosen, _TRAIN[train]]), "python")]
    if index:
        parts += ["### Index", _index_words(index)]
    if steps:
        made = ", ".join(f"{name} {number}" for name, number in versions.items())
        parts += ["### How it was made", _steps_list(steps), f"Packages: {made}.", _folded(steps)]
    if summary:
        parts += ["### Counts", *_counts(summary)]
    if plot:
        parts.append(f"![Similarities and ranks]({plot})")
    return "\n\n".join(parts)


def _is_conversational(features: Features) -> bool:
    chosen = features.get("chosen")
    return chosen is not None and getattr(chosen, "dtype", None) != "string"


def _load(repo_id: str, config: str, split: str | None) -> str:
    chosen = f', split="{split}"' if split else ""
    return (
        f'from datasets import load_dataset\n\nrows = load_dataset("{repo_id}", "{config}"{chosen})\n\n'
        f"# or with rir_hf, which brings the provenance and the index along:\nfrom rir_hf import pull\n\n"
        f'rows = pull("{repo_id}", "{config}")'
    )


def _columns_table(features: Features) -> str:
    lines = [f"| `{name}` | {_type_of(feature)} | {_meaning(name)} |" for name, feature in features.items()]
    return "\n".join(["| column | type | what it is |", "| --- | --- | --- |", *lines])


def _type_of(feature: Any) -> str:
    """A column's type in a word or two."""
    if isinstance(feature, dict):
        return "struct of " + ", ".join(f"`{name}`" for name in feature)
    if hasattr(feature, "feature"):
        length = getattr(feature, "length", -1)
        inner = "messages" if isinstance(feature.feature, dict) and "role" in feature.feature else _type_of(feature.feature)
        return f"{length} x {inner}" if length and length > 0 else f"list of {inner}"
    return str(getattr(feature, "dtype", type(feature).__name__))


def _meaning(name: str) -> str:
    if name in _COLUMNS:
        return _COLUMNS[name]
    if name == "embedding":
        return "vector of the row's text"
    if _METRIC.fullmatch(name):
        return "metric of the query"
    for ending, words in _ENDINGS.items():
        if name.endswith(ending):
            return words.format(name.removesuffix(ending))
    return "negatives, hardest first" if name.startswith("neg") else ""


def _index_words(index: Mapping[str, Any]) -> str:
    retriever = index.get("retriever") or {}
    vectors = f"vectors of `{index['name']}`" + (f" by `{_short(retriever['model'])}`" if "model" in retriever else "")
    return (
        f"`{index['file']}`: a FAISS `{index['index']}` over the {vectors}, {index['rows']:,} x {index['dimension']}, "
        f"{index['metric'].replace('_', ' ')}. `pull` attaches it, memory-mapped, after a check that it belongs to these rows."
    )


def _steps_list(steps: list[dict[str, Any]]) -> str:
    return "\n".join(f"{number}. {_step_words(step)}" for number, step in enumerate(steps, 1))


def _step_words(step: Mapping[str, Any]) -> str:
    """A step as a line: its name, the models in it, its short settings; a searched corpus indented below."""
    nested = {name: value for name, value in step.items() if isinstance(value, Mapping) and value}
    plain = {name: value for name, value in step.items() if name not in nested and name not in ("map", "made_by")}
    words = f"**{step['map']}**" if "map" in step else ""
    words += "".join(_nested_words(name, value) for name, value in nested.items() if "made_by" not in value)
    shown = ", ".join(f"`{name}={_short(value)}`" for name, value in plain.items() if value is not None)
    words += f" ({shown})" if shown else ""
    for name, value in nested.items():
        if "made_by" in value:
            words += f"\n   - {name}: {value['rows']:,} rows, `{value['index']}`"
            words += "".join(f"\n     - {_step_words(inner)}" for inner in value["made_by"])
    return words


def _nested_words(name: str, value: Mapping[str, Any]) -> str:
    known = {key: entry for key, entry in value.items() if entry is not None and key not in ("class", "model")}
    model = f" `{_short(value['model'])}`" if "model" in value else ""
    settings = ", ".join(f"`{key}={_short(entry)}`" for key, entry in known.items())
    return f" {name}{model}" + (f" ({settings})" if settings else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _DIGEST.sub(r"\1:\2", " ".join(text.replace("`", "'").split()))
    return text if len(text) <= _SETTINGS_SHOWN else text[: _SETTINGS_SHOWN - 3] + "..."


def _folded(steps: list[dict[str, Any]]) -> str:
    lines = json.dumps(steps, indent=1, ensure_ascii=False)
    return f"<details><summary>All settings</summary>\n\n{_code(lines, 'json')}\n\n</details>"


def _counts(summary: Mapping[str, Any]) -> list[str]:
    """Figures as lines of text, distributions as a table."""
    spread = {name: value for name, value in summary.items() if isinstance(value, Mapping) and "median" in value}
    parts = [_code(as_table({name: value for name, value in summary.items() if name not in spread}), "text")]
    if spread:
        names = list(next(iter(spread.values())))
        lines = [f"| | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
        for name, values in spread.items():
            cells = ["" if values[key] is None else f"{values[key]:.3f}" for key in names]
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return parts


def _code(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def with_section(body: str, repo_id: str, config: str, section: str) -> str:
    """The card's text with the section of this config put in its place, or at the end; a new card gets a title."""
    begin, end = f"<!-- rir_hf: {config} -->", f"<!-- rir_hf: end of {config} -->"
    block = f"{begin}\n{section}\n{end}"
    if not body.strip():
        body = f"# {repo_id.split('/')[-1]}\n\nTraining data made with rir_hf.\n"
    if begin in body and end in body:
        before, rest = body.split(begin, 1)
        return before + block + rest.split(end, 1)[1]
    return f"{body.rstrip()}\n\n{block}\n"


def describe_kind(data: DatasetCardData, kind: str, rows: int, given: Mapping[str, Any]) -> None:
    """Put license, language, tags, task and size into the card's YAML; what is there already stays unless it is given anew."""
    for name in ("license", "language"):
        if given.get(name) is not None:
            data[name] = given[name]
    more = {"tags": ["rir-hf", *_TAGS[kind], *given.get("tags", ())], "task_categories": _TASKS.get(kind, ["text-retrieval"])}
    for name, values in more.items():
        data[name] = list(dict.fromkeys([*_as_list(data.get(name)), *values])) or None
    data["size_categories"] = [next((name for limit, name in _SIZES if rows < limit), _MORE)]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def read_card(text: str) -> DatasetCard:
    """A card from its text, an empty one included."""
    return DatasetCard(text if text.strip() else "---\n{}\n---\n", ignore_metadata_errors=False)
