"""`rir-hf boost`: a corpus, a retriever and a language model in, better ones and the proof out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from rir_hf.cli.checks import check_model, check_models, check_sources
from rir_hf.cli.inputs import CorpusOptions, PairsOptions, QueriesOptions, read_each
from rir_hf.cli.options import DryRun, IndexOptions, LLMOptions, Model, RetrieverOptions, RunOptions


@dataclass
class Retrieving:
    """Retriever.

    Args:
        revision: branch, tag or commit of a Hub model.
        query_prompt: text before each query; none: the one stored with the model.
        passage_prompt: text before each passage; none: the one stored with the model.
        max_length: tokens after which a text is cut.
        texts_per_pass: texts per forward pass.
    """

    revision: str | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    max_length: int = 512
    texts_per_pass: int = 64

    def load(self, model: str) -> Model:
        """The retriever that the options describe."""
        return RetrieverOptions(model, **vars(self)).load()


@dataclass
class Generating:
    """Generator.

    Args:
        generator: Hub name, folder, or the model's name at the server; none: queries are taken from
            the passages.
        model_type: llm: a model without chat template; llm_instruct: with one; gpt: behind an
            OpenAI-compatible server; vllm: in vLLM, in this process.
        gguf_file: name of a GGUF file in the model's folder, which is unpacked once.
        dtype: bfloat16, float16 or float32; none: the model's own, float32 on the CPU.
        no_thinking: call the chat template with enable_thinking=False, as Qwen3 needs it.
        base_url: address of an OpenAI-compatible server; none: OpenAI.
        api_key: key of the server; better in the environment as OPENAI_API_KEY.
        concurrency: requests in flight at the server.
        generator_length: tokens of prompt and answer; none: what the model says.
        generator_weights: folder of the weights of a generator behind a server or in vLLM; without
            it such a one is not tuned.
    """

    generator: str | None = None
    model_type: Literal["llm", "llm_instruct", "gpt", "vllm"] = "llm_instruct"
    gguf_file: str | None = None
    dtype: str | None = None
    no_thinking: bool = False
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    generator_length: int | None = None
    generator_weights: str | None = None

    def check(self) -> None:
        """Raise `OSError` where there is no such model, before anything is loaded."""
        if self.generator is not None:
            self._options(self.generator).check("--generator")

    def load(self) -> Model:
        """The language model that the options describe; None where there is none."""
        return None if self.generator is None else self._options(self.generator).load()

    def _options(self, generator: str) -> LLMOptions:
        same = ("model_type", "gguf_file", "dtype", "no_thinking", "base_url", "api_key")
        options = {name: getattr(self, name) for name in (*same, "concurrency")}
        return LLMOptions(generator, max_length=self.generator_length, **options)


@dataclass
class Asking:
    """Queries.

    Args:
        task: the retrieval task, a name (scifact, nq, ...) or a sentence that describes it.
        queries: queries without labels, rows with query: a file, a folder, a Hub name, or a folder
            in BEIR or MTEB layout.
        pairs: labelled queries, rows with query and pos_ids, pos or passage, from the same.
        queries_split: split of --queries and --pairs, where there are several; none: train.
        queries_columns: columns of --queries whose names do not say what they are, as YAML:
            '{query: claim}'.
        pairs_columns: the same of --pairs: '{query: claim, positive: evidence}'.
        passages: passages that each round makes queries of; 0: --queries and --pairs alone; none:
            as many as give 40,000 titles and sentences.
        queries_per_passage: titles and sentences taken from each, which cost no language model;
            none: as many as make 40,000 of the whole corpus, but 8 at most.
        written: for how many of them the generator writes a query.
        kinds: kinds of query in turn: title, sentence, task, question, claim, keywords; none: task,
            sentence, title, without a generator the last two.
        word_dropout: share of the words that is left out of titles and sentences; their passage is
            then one of their candidates. Every second held-out one is thinned too.
        repeat_queries: how often each of --queries and --pairs comes in an epoch; none: until they
            are a fifth of all, at most 8 times.
        min_quality: log-odds of Yes from which a written query is taken; none: the best three
            quarters.
        examples: two or three short rows of passage and query that show the generator what to
            write: a file, a folder or a Hub name. Small models need them.
        answers: answers to each query that preferences are made of; 1: no preferences, so the
            generator is not tuned; 0: no answers.
        answer_words: about how long an answer is to be.
        require_gain: make preferences only of queries that the best answer helps.
        language: of the corpus, such as "German", in which the generator writes and BM25 stems.
    """

    task: str | None = None
    queries: str | None = None
    pairs: str | None = None
    queries_split: str | None = None
    queries_columns: dict[str, str] | None = None
    pairs_columns: dict[str, str] | None = None
    passages: int | None = None
    queries_per_passage: int | None = None
    written: int = 500
    kinds: list[str] | None = None
    word_dropout: float = 0.4
    repeat_queries: int | None = None
    min_quality: float | None = None
    examples: str | None = None
    answers: int = 5
    answer_words: int = 60
    require_gain: bool = True
    language: str | None = None

    def options(self) -> dict[str, Any]:
        """The options of `boost`, with the queries read."""
        from rir_hf import load_rows

        found = dict(vars(self))
        split = found.pop("queries_split")
        asking = QueriesOptions(found.pop("queries_columns"))
        pairing = PairsOptions(found.pop("pairs_columns"))
        found["examples"] = load_rows(self.examples).to_list() if self.examples else ()
        if self.queries is not None:
            found["queries"] = asking.load(self.queries, split, "train")
        if self.pairs is not None:
            found["pairs"] = pairing.load(self.pairs, split)
        return found


@dataclass
class Judging:
    """Judging.

    Args:
        dev: judged queries to choose models by: a folder in BEIR or MTEB layout, or rows with
            query_id, query and pos_ids; none: a part of --pairs, else generated, and a part of
            --queries judged by the teacher.
        dev_split: its split, where it has several; none: dev.
        test: judged queries to measure with once, at the end; none: a part of --pairs, else
            generated.
        test_split: its split, where it has several; none: test.
        judged_columns: columns of --dev and --test whose names do not say what they are, as for
            --pairs_columns.
        held_out: queries in each of dev and test, where they are not given; at most a fifth of the
            pairs. Of those that are generated a quarter is of passages that no query is trained on.
        patience: rounds without a gain after which the loop ends.
    """

    dev: str | None = None
    dev_split: str | None = None
    test: str | None = None
    test_split: str | None = None
    judged_columns: dict[str, str] | None = None
    held_out: int = 200
    patience: int = 2

    def options(self) -> dict[str, Any]:
        """The options of `boost`, with the judged queries read."""
        from rir_hf.boosting.inputs import judged_of

        found: dict[str, Any] = {"held_out": self.held_out, "patience": self.patience}
        for name in ("dev", "test"):
            source, split = getattr(self, name), getattr(self, f"{name}_split")
            try:
                found[name] = judged_of(source, split, name, self.judged_columns)
            except ValueError as error:
                said = str(error).replace("--pairs_columns", "--judged_columns")
                raise ValueError(f"--{name}: {said}") from error
        return found


@dataclass
class Learning:
    """Training.

    Args:
        teacher: what scores passages, a YAML file or text as in `rir-hf score`; none: words and the
            retriever's own similarities together.
        queries_teacher: what scores the candidates of --queries in its place, in the same form.
        candidates: passages per query that the retriever is trained on, positive included; none:
            100 where passages are frozen, of a small corpus a third; else 8.
        max_steps: steps of each training, in place of its epochs.
        keep: share of the old retriever's weights in the new one's, so that it stays as good as it
            was on other text; 0.5 averages the two.
        replay: rows with query and passages from elsewhere, as `rir-hf candidates` writes them, on
            which the retriever is to stay as it is.
        training: options of train-retriever that differ, as YAML: '{epochs: 1, batch_size: 16}';
            '{freeze_passages: false}' trains both sides and not the queries' side alone.
        tuning: options of train-generator that differ, as YAML.
        checkpoint_steps: steps between two checkpoints.
        launch: starts trainers in processes of their own: 'accelerate launch --num_processes 8'.
        seed: of all draws.
    """

    teacher: str | None = None
    queries_teacher: str | None = None
    candidates: int | None = None
    max_steps: int | None = None
    keep: float = 0.3
    replay: str | None = None
    training: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    checkpoint_steps: int = 25
    launch: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise where a teacher cannot be made, before anything is read."""
        from rir_hf.cli.teachers import TinyCorpus

        for option, teacher in self._teachers(TinyCorpus()).items():
            check_models(teacher, f"--{option}")

    def options(self, corpus: str, reading: CorpusOptions) -> dict[str, Any]:
        """The options of `boost`, with teachers and rows read."""
        from rir_hf import load_rows
        from rir_hf.cli.teachers import TeachersCorpus

        place = TeachersCorpus(corpus, reading, IndexOptions(), RunOptions())
        found = dict(vars(self)) | self._teachers(place)
        if self.replay is not None:
            found["replay"] = load_rows(self.replay)
        return found

    def _teachers(self, place: Any) -> dict[str, Any]:
        """The teachers that are named, by option, which search the corpora of `place`."""
        from rir_hf.cli.teachers import read_teacher

        found = {}
        for option in ("teacher", "queries_teacher"):
            if (described := getattr(self, option)) is not None:
                try:
                    found[option] = read_teacher(described, place)
                except ValueError as error:
                    said = str(error).removeprefix("--teacher: ")
                    raise ValueError(f"--{option}: {said}") from None
        return found


def command(
    retrieving: Retrieving,
    generating: Generating,
    asking: Asking,
    judging: Judging,
    learning: Learning,
    reading: CorpusOptions,
    dry: DryRun,
    corpus: str,
    retriever: str,
    output: str,
    rounds: int = 1,
    engine: Literal["datasets", "ray"] = "datasets",
    engine_options: dict[str, Any] | None = None,
) -> None:
    """Make a retriever and a generator better on a corpus, round after round, and prove it.

    rir-hf boost --corpus corpus.jsonl --retriever BAAI/bge-base-en-v1.5 --generator Qwen/Qwen3-8B
        --task "Given a claim, find the abstract that supports or refutes it" --rounds 2
        --output runs/claims
    rir-hf boost --corpus corpus.jsonl --retriever BAAI/bge-base-en-v1.5 --output runs/words
    rir-hf boost --config recipes/boost-8gpu.yaml --corpus corpus.jsonl --output runs/node

    The same command after a kill goes on where it was. A changed option makes anew what depends on
    it. The report is report.html in the output folder; `rir-hf push` sends a run to the Hub.

    Args:
        corpus: passages, with the columns id and text: a file, a folder, a Hub name, or a folder in
            BEIR or MTEB layout.
        retriever: Hub name or folder of the sentence-transformers model to begin with.
        output: folder of the run.
        rounds: rounds at most.
        engine: what maps the steps: this machine, or a Ray cluster.
        engine_options: of the engine, as YAML: '{num_proc: 2}', for Ray '{concurrency: 8,
            num_gpus: 1}'.
    """
    check_model(retriever, "--retriever", retrieving.revision)
    generating.check()
    learning.check()
    check_sources(corpus, asking.queries, asking.pairs, asking.examples)
    check_sources(judging.dev, judging.test, learning.replay)
    from rir_hf import boost
    from rir_hf.boosting.plan import Planned, as_lines

    passages, asked, judged = read_each(
        lambda: reading.load(corpus), asking.options, judging.options
    )
    made = boost(
        passages,
        retrieving.load(retriever),
        generating.load(),
        output=output,
        rounds=rounds,
        generator_weights=generating.generator_weights,
        engine=engine,
        engine_options=engine_options,
        dry_run=dry.dry_run,
        **asked,
        **judged,
        **learning.options(corpus, reading),
    )
    if dry.dry_run:
        dry.says(as_lines([Planned(**row) for row in made.rounds]))
    else:
        generator = f"generator: {made.generator}\n" if made.generator else ""
        sys.stdout.write(f"retriever: {made.retriever}\n{generator}report: {made.report}\n")
