"""The dataset card: Markdown for people and YAML for the Hub.

Each config has a section of its own between two comments, rendered from `card.md.jinja`. A push
writes its own section anew and leaves everything else in the card as it is, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import CardData, DatasetCard
from jinja2 import Environment, StrictUndefined, Template
from yaml import YAMLError  # type: ignore[import-untyped]

from rir_hf import schema
from rir_hf.core.texts import on_one_line
from rir_hf.hub.layout import folder_of, slug_of
from rir_hf.mining.positives import as_list
from rir_hf.reports.counts import as_table, is_distribution
from rir_hf.schema import COLUMNS

_SHOWN_CHARACTERS = 60
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
"""Powers of ten from 1,000 on, between which the Hub knows a size category."""

_TITLES = {
    "preferences": "Preference pairs",
    "scored": "Hard negatives with a teacher's scores",
    "mined": "Hard negatives",
    "ranked": "Passages with a teacher's scores",
    "lists": "Passages for a teacher to rank",
    "run": "A retrieval run",
    "corpus": "A corpus of passages",
    "rows": "Rows",
}
_TAGS = {
    "preferences": ["dpo", "preference-pairs"],
    "scored": ["hard-negatives", "distillation", "sentence-transformers"],
    "mined": ["hard-negatives", "sentence-transformers"],
    "ranked": ["distillation", "sentence-transformers"],
    "lists": ["information-retrieval"],
    "run": ["information-retrieval"],
    "corpus": ["information-retrieval"],
    "rows": [],
}
_TASKS = {"preferences": ["text-generation"], "rows": []}
_DIGEST = re.compile(r"((?:\b(?:content|weights):|@)[0-9a-f]{12})[0-9a-f]+")
_METRIC = re.compile(r"[A-Za-z]+@\d+")

BROKEN = (YAMLError, RecursionError, UnicodeDecodeError)
"""What a card raises whose YAML is none."""


class Part(NamedTuple):
    """A config ready to be sent.

    files: path in the repository -> the file here.
    info: columns, and rows of each split, for the card's YAML.
    note: its `steps`, `versions` of packages, and the identity of its `index` if it has one.
    counts: the report on its first split.
    plot: path of the report's picture in the repository, if there is one.
    """

    config: str
    files: dict[str, Path]
    info: DatasetInfo
    note: dict[str, Any]
    counts: dict[str, Any]
    plot: str | None


def updated_card(
    content: bytes, repo_id: str, parts: Sequence[Part], yaml: Mapping[str, Any]
) -> str:
    """The text of a card with the sections and the YAML of these configs written anew.

    Args:
        content: the card that is there; empty for a new one.
        repo_id: where it is.
        parts: the configs.
        yaml: `license`, `language` and `tags` as given to `push`.

    Raises:
        ValueError: the card that is there is no text, or has YAML that is none.
    """
    with explaining_card(repo_id, (*BROKEN, AttributeError, KeyError, TypeError, ValueError)):
        text = content.decode("utf-8-sig")
        card = DatasetCard(text if text.strip() else "---\n{}\n---\n")
        for part in parts:
            _describe_config(card.data, part)
            _describe_kind(card.data, kind_of(part.info.features), yaml)
    body = card.text
    for part in parts:
        body = with_section(body, repo_id, part.config, render_section(repo_id, part))
    return f"---\n{card.data}\n---\n\n{body.lstrip()}"


@contextmanager
def explaining_card(repo_id: str, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what parsers make of a broken card into an error that says whose it is."""
    try:
        yield
    except kinds as error:
        raise ValueError(
            f"The README.md of {repo_id} cannot be read: mend it, or the YAML at its beginning "
            f"({on_one_line(str(error)):.200})."
        ) from error


def kind_of(columns: Any) -> str:
    """Which kind of rows these columns make.

    Example:
        >>> kind_of(["query", "pos", "neg"]), kind_of(["id", "text", "embedding"])
        ('mined', 'corpus')
    """
    has = set(columns).issuperset
    checks = {
        "preferences": has({"chosen", "rejected"}),
        "scored": has({"pos", "neg", "pos_scores", "neg_scores"}),
        "mined": has({"pos", "neg"}),
        "ranked": has({"passages", "passage_scores"}),
        "lists": has({"passages"}),
        "run": has({"hit_ids", "hit_scores"}),
        "corpus": has({"id", "text"}),
    }
    return next((kind for kind, fits in checks.items() if fits), "rows")


def size_category(rows: int) -> str:
    """The size category of the Hub for a number of rows.

    Example:
        >>> size_category(999), size_category(1000), size_category(50_000_000)
        ('n<1K', '1K<n<10K', '10M<n<100M')
    """
    for number, limit in enumerate(_SIZES):
        if rows < 1000 * 10**number:
            return f"{_SIZES[number - 1]}<n<{limit}" if number else f"n<{limit}"
    return f"n>{_SIZES[-1]}"


def render_section(repo_id: str, part: Part) -> str:
    """The section of one config, its two comments included."""
    features, splits = part.info.features, part.info.splits
    counted, distributions = _counts_and_distributions(part.counts)
    text = _template().render(
        repo_id=repo_id,
        config=part.config,
        title=_TITLES[kind_of(features)],
        sizes=", ".join(
            f"{_rows(split.num_examples)} in `{name}`" for name, split in splits.items()
        ),
        columns=[_column(name, feature) for name, feature in features.items()],
        first_split=next(iter(splits)),
        only_split=next(iter(splits)) if len(splits) == 1 else None,
        use="messages" if _has_messages(features) else kind_of(features),
        index=part.note.get("index"),
        steps=part.note["steps"],
        versions=", ".join(f"{name} {found}" for name, found in part.note["versions"].items()),
        counts=counted,
        distributions=distributions,
        plot=part.plot,
    )
    # No text from the rows may look like one of the comments that the next push looks for.
    text = text.strip().replace("<!--", "<! --")
    begin, end = _comments(part.config)
    return f"{begin}\n{text}\n{end}"


def with_section(body: str, repo_id: str, config: str, section: str) -> str:
    """The card's text with the section in its place, or at the end; a new card gets a title."""
    begin, end = _comments(config)
    before, _, rest = body.partition(begin)
    _, is_there, after = rest.partition(end)
    if is_there:
        return before + section + after
    if not body.strip():
        body = f"# {repo_id.split('/')[-1]}\n\nTraining data made with rir_hf.\n"
    return f"{body.rstrip()}\n\n{section}\n"


def _comments(config: str) -> tuple[str, str]:
    """What stands before and after the section of a config."""
    slug = slug_of(config)
    return f"<!-- rir_hf: {slug} -->", f"<!-- rir_hf: end of {slug} -->"


def describe_column(name: str) -> str:
    """What a column holds, in a line from `rir_hf.schema`; empty for one that is not ours.

    Example:
        >>> describe_column("neg_answer_sims")
        "the retriever's similarities of the negatives (searched with `answer`)"
        >>> describe_column("my_column")
        ''
    """
    if name in COLUMNS:
        return COLUMNS[name].says
    if _METRIC.fullmatch(name):
        return "the query's value of this measure"
    if name.endswith("_embedding"):
        return f"{schema.EMBEDDING.says} of `{name.removesuffix('_embedding')}`"
    if name.startswith("neg_"):
        return _describe_mined(name)
    return ""


def _describe_mined(name: str) -> str:
    """A column of `MineNegatives` under another name than `neg`, such as `neg_answer_ids`."""
    endings = {f"_{column.name}": column for column in (schema.POS_SIMS, schema.POS_RANK)}
    for column in (schema.NEG_IDS, schema.NEG_SIMS, schema.NEG_NOTE, schema.NEG_SKIPPED):
        endings[column.name.removeprefix("neg")] = column
    ending = next((ending for ending in endings if name.endswith(ending)), "")
    searched_with = name.removeprefix("neg_").removesuffix(ending)
    return f"{endings.get(ending, schema.NEG).says} (searched with `{searched_with}`)"


def describe_step(step: Mapping[str, Any]) -> str:
    """A step as a line of Markdown: its name, the models in it, its short settings; a corpus that
    it searched indented below.

    Example:
        >>> retriever = {"class": "Retriever", "model": "bge"}
        >>> describe_step({"step": "Embed", "retriever": retriever, "role": "query"})
        '**Embed** retriever `bge` (`role=query`)'
    """
    settings = {name: value for name, value in step.items() if name != "step"}
    objects, plain = _divided(settings)
    words = " ".join([f"**{_short(step['step'])}**", *objects])
    words += f" ({', '.join(plain)})" if plain else ""
    searched = [views for value in settings.values() if (views := _searched_in(value))]
    return words + "".join(_corpus_lines(views) for views in searched)


def _corpus_lines(views: Sequence[Mapping[str, Any]]) -> str:
    """A searched corpus as an indented list: its size and indexes, then what made it."""
    indexes: list[str] = []
    for view in views:
        indexes += [f"`{_short(view['kind'])}`", *_divided(view["search"])[1]]
    lines = [f"\n   - corpus: {_rows(views[0]['corpus']['rows'])}, {', '.join(indexes)}"]
    for step in views[0]["made_by"]:
        indented = describe_step(step).replace("\n", "\n  ")
        lines.append(f"\n     - {indented}")
    return "".join(lines)


def _nested(name: str, value: Any) -> str:
    """A model or teacher among the settings: its model's name or its class, and its settings."""
    if isinstance(value, list):
        return f"{name}: {', '.join(_nested('', item).strip() for item in value)}"
    objects, plain = _divided(
        {key: item for key, item in value.items() if key not in ("class", "model")}
    )
    words = f"{name} `{_short(value.get('model') or value['class'])}`"
    return f"{words} ({', '.join([*objects, *plain])})" if objects or plain else words


def _divided(settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The settings that are objects, and the plain ones; neither corpora nor what is empty."""
    objects, plain = [], []
    for name, value in settings.items():
        if _is_object(value):
            objects.append(_nested(name, value))
        elif value is not None and value != {} and not _searched_in(value):
            plain.append(f"`{name}={_short(value)}`")
    return objects, plain


def _is_object(value: Any) -> bool:
    """Whether a setting is a recorded object, or a list of them."""
    if isinstance(value, list):
        return bool(value) and all(_is_object(item) for item in value)
    return isinstance(value, Mapping) and "class" in value and not _searched_in(value)


def _searched_in(value: Any) -> list[Mapping[str, Any]]:
    """The records of `CorpusView`s that a setting is, one or a list; else an empty list."""
    parts = {"corpus", "kind", "search", "made_by"}
    views = value if isinstance(value, list) else [value]
    are_views = all(isinstance(view, Mapping) and parts <= set(view) for view in views)
    return views if are_views else []


def _short(value: Any) -> str:
    """A setting on one line, without what would end the code span it stands in."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _DIGEST.sub(r"\1", on_one_line(text).replace("`", "'"))
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return text[: _SHOWN_CHARACTERS - 3] + "..."


def _cell(text: str) -> str:
    """A text for a cell of a table: on one line, without what would end the cell."""
    return on_one_line(text).replace("|", "\\|")


def _fenced(text: str, language: str) -> str:
    """A block of code that nothing in the text can end."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _all_settings(steps: Sequence[Mapping[str, Any]]) -> str:
    """The records as JSON, in which a comment, and what cannot be seen or steers a terminal, is
    written so that it stays the same text.
    """
    text = json.dumps(steps, indent=1, ensure_ascii=False).replace("<!--", "\\u003c!--")
    shown = (
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )
    return _fenced("".join(shown), "json")


@cache
def _template() -> Template:
    # What comes out is Markdown, in which HTML escapes would be shown as they are: no autoescape.
    # The filters escape what Markdown gives a meaning to.
    environment = Environment(  # noqa: S701
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "cell": _cell,
        "fenced": _fenced,
        "quoted": lambda text: json.dumps(text, ensure_ascii=False),
        "nested": lambda value: _nested("", value).strip(),
        "step_lines": describe_step,
        "all_settings": _all_settings,
        "table_of_counts": as_table,
        "figure": lambda value: "" if value is None else f"{value:.3f}",
    }
    source = files("rir_hf.hub").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _column(name: str, feature: Any) -> dict[str, str]:
    shown = name.replace("`", "'")
    return {"name": shown, "type": _type_of(feature), "says": describe_column(name)}


def _type_of(feature: Any) -> str:
    """A column's type in a word or two."""
    if isinstance(feature, dict):
        return "struct of " + ", ".join(f"`{name}`" for name in feature)
    if hasattr(feature, "feature"):
        length = getattr(feature, "length", -1)
        inner = "messages" if _is_message(feature.feature) else _type_of(feature.feature)
        return f"{length} x {inner}" if length and length > 0 else f"list of {inner}"
    return str(getattr(feature, "dtype", type(feature).__name__))


def _is_message(feature: Any) -> bool:
    return isinstance(feature, dict) and "role" in feature


def _has_messages(features: Features) -> bool:
    """Whether these are preferences as TRL takes them for a chat model."""
    return _is_message(getattr(features.get("chosen"), "feature", None))


def _rows(number: int) -> str:
    return f"{number:,} {'row' if number == 1 else 'rows'}"


def _counts_and_distributions(counts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a report, none without a stage, and apart from them its distributions."""
    counted: dict[str, Any] = dict(counts)
    distributions: dict[str, Any] = {}
    for stage, figures in counts.items():
        if isinstance(figures, Mapping):
            spread = {name: value for name, value in figures.items() if is_distribution(value)}
            counted[stage] = {name: figures[name] for name in figures if name not in spread}
            distributions |= spread
    return (counted if len(counted) > 1 else {}), distributions


def _describe_config(data: CardData, part: Part) -> None:
    """Put the config's columns, splits and files into the YAML."""
    DatasetInfosDict({part.config: part.info}).to_dataset_card_data(data)
    folder = folder_of(part.config)
    paths = [{"split": split, "path": f"{folder}/{split}-*"} for split in part.info.splits]
    configs = MetadataConfigs.from_dataset_card_data(data)
    configs[part.config] = {**configs.get(part.config, {}), "data_files": paths}
    configs.to_dataset_card_data(data)


def _describe_kind(data: CardData, kind: str, yaml: Mapping[str, Any]) -> None:
    """Put license, language, tags, task and size into the YAML, and keep what is there."""
    for name in ("license", "language"):
        if yaml.get(name) is not None:
            data[name] = yaml[name]
    more = {
        "tags": ["rir-hf", *_TAGS[kind], *yaml.get("tags", ())],
        "task_categories": _TASKS.get(kind, ["text-retrieval"]),
    }
    for name, values in more.items():
        data[name] = list(dict.fromkeys([*as_list(data.get(name)), *values])) or None
    data["size_categories"] = [size_category(sum(_split_sizes(data)))]


def _split_sizes(data: CardData) -> Iterator[int]:
    """Rows of each split of each config that the YAML knows."""
    for config in as_list(data.get("dataset_info")):
        for split in config.get("splits", []):
            yield split.get("num_examples", 0)
