"""A teacher written down in YAML in, the teacher out.

    QueryLikelihood: {llm: Qwen/Qwen3-8B}

    Blend:
      weights: [1, 1]
      teachers:
        - Listwise: {llm: {OpenAIChat: {model: gpt-4.1-mini}}, window: 10}
        - Similarities

`LexicalTeacher` counts the words of the command's --corpus, and `RetrieverTeacher` searches it.

A class is a mapping with its name as the only key, and its options below; or its name alone, where
it needs none. Only the classes named here can be made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rir_hf.cli.inputs import CorpusOptions
from rir_hf.cli.options import IndexOptions, Rows, RunOptions, WordOptions, check_options

if TYPE_CHECKING:
    from rir_hf import Teacher

TEACHERS = (
    "QueryLikelihood",
    "YesNo",
    "Listwise",
    "ListwiseLogits",
    "CrossEncoderTeacher",
    "LexicalTeacher",
    "RetrieverTeacher",
    "MemberScores",
    "Similarities",
    "Blend",
)
MODELS = ("ChatLLM", "CompletionLLM", "OpenAIChat", "VLLM")


class Corpora(Protocol):
    """The corpus that teachers search."""

    def with_words(self) -> Rows:
        """The corpus with an index of its words."""

    def with_vectors(self, retriever: Any) -> Rows:
        """The corpus with an index of a retriever's vectors."""


class TinyCorpus:
    """A corpus of one passage, with which a teacher's options are checked before there is work."""

    def with_words(self) -> Rows:
        """The passage with an index of its words."""
        return IndexOptions(index=["bm25"]).tiny_corpus()

    def with_vectors(self, retriever: Any) -> Rows:
        """The passage with an index of a vector."""
        return IndexOptions().tiny_corpus()


@dataclass
class TeachersCorpus:
    """The corpus that teachers search, read and indexed when the first one asks for it."""

    source: str
    reading: CorpusOptions
    words: WordOptions
    running: RunOptions

    def with_words(self) -> Rows:
        """The corpus with an index of its words."""
        return self.words.attach(self.running.sample(self.reading.load(self.source)))

    def with_vectors(self, retriever: Any) -> Rows:
        """The corpus with an index of a retriever's vectors."""
        from rir_hf.cli.search import indexed

        return indexed(self.reading.load(self.source), retriever, self.running, IndexOptions())


def read_teacher(described: str | dict[str, Any], corpus: Corpora | None = None) -> Teacher:
    """The teacher that a YAML text, a file of it, or what was read from one describes.

    Raises:
        FileNotFoundError: a name that ends as a YAML file's does, where there is no such file.
        ValueError: no YAML, an unknown class or option, or an option out of range.

    Example:
        >>> read_teacher("Similarities").key()["class"]
        'Similarities'
        >>> read_teacher("{Blend: {teachers: [Similarities], weights: [2]}}").weights
        [2.0]
    """
    value = read_yaml(described) if isinstance(described, str) else described
    return make(value, "teacher", TEACHERS, corpus)


def read_yaml(text: str) -> Any:
    """The content of a YAML file, or of the text itself."""
    import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

    if text.endswith((".yaml", ".yml")):
        text = Path(text).read_text(encoding="utf-8")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--teacher: no YAML: {error}") from None


def named(value: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a class; `ValueError` where the value describes none."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if options is None or isinstance(options, Mapping):
            return str(name), dict(options or {})
    from rir_hf.core.secrets import without_secrets

    raise ValueError(
        "--teacher: a teacher or a model is its name, or {Name: {option: value}}, "
        f"got {str(without_secrets(value))[:200]}"
    )


def make(value: Any, what: str, names: Sequence[str], corpus: Corpora | None = None) -> Any:
    """The object that a value describes, of one of the classes with these names."""
    import rir_hf

    name, options = named(value)
    if name not in names:
        raise ValueError(f"--teacher: there is no {what} {name!r}, only {', '.join(names)}")
    kind = getattr(rir_hf, name)
    if name == "LexicalTeacher":
        if corpus is None:
            raise ValueError("--teacher: LexicalTeacher needs --corpus, whose words it counts")
        options = {"corpus": corpus.with_words()} | options
    check_options(kind, options, f"--teacher: {name}")
    given = {option: value_of(option, item, corpus) for option, item in options.items()}
    if name == "RetrieverTeacher" and corpus is not None:
        given["corpus"] = corpus.with_vectors(given["retriever"])
    try:
        return kind(**given)
    except (OSError, ValueError) as error:
        raise ValueError(f"--teacher: {name}: {error}") from error


def value_of(option: str, value: Any, corpus: Corpora | None = None) -> Any:
    """What a class is given for an option: teachers and models are made, all else stays."""
    if option == "teachers":
        if not isinstance(value, list):
            raise ValueError("--teacher: teachers must be a list")
        return [read_teacher(item, corpus) for item in value]
    if option == "retriever" and isinstance(value, Mapping):
        return make(value, "retriever", ("Retriever",))
    if option == "llm" and isinstance(value, Mapping):
        return make(value, "model", MODELS)
    return value
