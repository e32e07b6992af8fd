"""A corpus, a retriever and a generator in; both made better, round after round, and the proof of
it out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from rir_hf.boosting.held_out import Judged, SetAside, held_out_of, kept_back
from rir_hf.boosting.inputs import (
    Source,
    check,
    check_candidates,
    check_generator,
    check_launch,
    check_replay,
    check_sides,
    check_teacher,
    checked_trainers,
    corpus_of,
    given_queries,
    judged_of,
    sizes_of,
    trainable,
    warn_of_common,
)
from rir_hf.boosting.judge import in_words, told_apart, verdict_on
from rir_hf.boosting.options import Options, usual_budget
from rir_hf.boosting.page import write_page
from rir_hf.boosting.plan import planned
from rir_hf.boosting.record import RunFolder, write_json
from rir_hf.boosting.rounds import go
from rir_hf.boosting.state import LABELLED, UNLABELLED, Round, Setup
from rir_hf.boosting.table import row_of, write_changed, write_table
from rir_hf.boosting.tuning import tunable, usual_candidates, with_usual
from rir_hf.core.columns import digest_of_rows
from rir_hf.core.configured import key_of, record_of
from rir_hf.core.secrets import command_without_secrets, without_secrets
from rir_hf.core.step import Step
from rir_hf.core.unfinished import alone_in
from rir_hf.export.usable import is_text
from rir_hf.models.llm import LLM
from rir_hf.models.local import ChatLLM, CompletionLLM, as_llm
from rir_hf.models.retriever import Retriever
from rir_hf.running.retry import retry
from rir_hf.running.run import run
from rir_hf.teaching.teacher import Teacher
from rir_hf.training.generator import check_no_adapter

logger = logging.getLogger(__name__)

_TAKEN = ("sentence", "title")
_WRITTEN_TOO = ("task", "sentence", "title")


@dataclass(frozen=True)
class Boosted:
    """What a run made.

    retriever: folder of the last model that was kept, or the one it began with.
    generator: the same for the generator; None where there is none in this process.
    rounds: a row for each round and stage, with the verdict on each model, see the guide; after a
        dry run the stages that lie ahead.
    report: the page that says all of it; None after a dry run.
    """

    retriever: str | None
    generator: str | None
    rounds: Dataset
    report: Path | None


def boost(
    corpus: Dataset | Source,
    retriever: Retriever | Source,
    generator: LLM | Source | None = None,
    *,
    output: Source,
    task: str | None = None,
    rounds: int = 1,
    queries: Dataset | Source | None = None,
    pairs: Dataset | Source | None = None,
    dev: Judged | Source | None = None,
    test: Judged | Source | None = None,
    teacher: Teacher | None = None,
    queries_teacher: Teacher | None = None,
    passages: int | None = None,
    queries_per_passage: int | None = None,
    written: int = 500,
    kinds: Sequence[str] | str | None = None,
    word_dropout: float = 0.4,
    repeat_queries: int | None = None,
    min_quality: float | None = None,
    examples: Sequence[Mapping[str, str]] = (),
    answers: int = 5,
    answer_words: int = 60,
    require_gain: bool = True,
    candidates: int | None = None,
    max_steps: int | None = None,
    patience: int = 2,
    held_out: int = 200,
    language: str | None = None,
    keep: float = 0.3,
    replay: Dataset | None = None,
    training: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
    generator_weights: Source | None = None,
    checkpoint_steps: int = 25,
    launch: str | None = None,
    engine: str = "datasets",
    engine_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Boosted:
    """Make a retriever, and a generator, better on a corpus, and prove it.

    After Reinforced-IR (Li et al. 2025, arXiv 2502.11562). A round writes queries for passages of
    the corpus and answers to them, tunes the generator on the answers with which the retriever
    finds the passages best (DPO), and trains the retriever on what a teacher says of the passages
    that it confuses. A new model takes the old one's place where the mean paired difference on
    held-out queries is not below 0. Held-out queries are the user's, or pairs set aside, or
    generated from sentences that nothing else is generated from; those are marked as synthetic.

    Every stage is kept in `output`. The same call after a kill goes on where it was, within a
    stage and within a training; a changed option makes anew what depends on it.

    Args:
        corpus: passages with `id` and `text`, or what `load_corpus` reads.
        retriever: a sentence-transformers model: name, folder, or a `Retriever` with its prompts.
        generator: a `ChatLLM`, `OpenAIChat`, `VLLM`, or a model's name or folder for a `ChatLLM`.
            None: queries are taken from the passages, and there are no answers.
        output: folder of the run.
        task: the retrieval task, a name or a sentence; see `GenerateQueries`.
        rounds: rounds at most.
        queries: queries without labels, with `query`: candidates for the teacher.
        pairs: labelled queries, with `query` and `pos` or `pos_ids`.
        dev: judged queries to choose models by: rows with `query_id`, `query`, `pos_ids`, or a
            tuple of queries and qrels, or a folder in BEIR layout (its split `dev`). Default: a
            part of `pairs`, else generated, and a part of `queries` judged by the teacher.
        test: judged queries to measure with once, at the end. Default: a part of `pairs`, else
            generated.
        teacher: what scores passages. Default: words and the retriever's own similarities together
            (`Blend` of `LexicalTeacher` and `RetrieverTeacher`), which ranks better than either.
        queries_teacher: what scores the candidates of `queries` in its place. There are few of
            these, so it may be slow, and a better one is worth more there than anywhere else.
        passages: passages that each round makes queries of, from all parts of the corpus; 0 trains
            on `queries` and `pairs` alone. Default: as many as give 40,000 titles and sentences.
        queries_per_passage: titles and sentences taken from each, which cost no language model.
            Default: as many as make 40,000 of the whole corpus, but 8 at most.
        written: for how many of them the generator writes a query.
        kinds: kinds of query, in turn: `title`, `sentence` (taken from the passage), `task`,
            `question`, `claim`, `keywords` (written). Default: `task`, `sentence`, `title`; without
            a generator the last two.
        word_dropout: share of the words that is left out of titles and sentences, drawn one by one.
            0: they are whole, and their passage is no candidate of theirs. Above, it is one, and
            every second held-out title or sentence is thinned in the same way.
        repeat_queries: how often each of `queries` and `pairs` comes in an epoch, so that a few
            that people have asked are not drowned by many generated ones. Default: as often as it
            takes to make them a fifth of all, but at most 8 times.
        min_quality: log-odds of Yes from which a written query is taken when its generator is asked
            whether it fits the passage. Default: the best three quarters are, since small models
            say Yes or No to everything.
        examples: two or three rows of `passage` and `query`, short ones, that show the generator
            what a query of kind `task` looks like. Small models need them.
        answers: answers to each query that preferences are made of; 1: no preferences, so the
            generator is not tuned; 0: no answers at all.
        answer_words: about how long an answer is to be; it is cut at four tokens a word.
        require_gain: make preferences only of queries that the best answer helps. False gives more
            pairs, of use where the answers of a weak generator help seldom.
        candidates: passages per query that the retriever is trained on, positive included. Default:
            100, where passages are frozen and cost next to nothing, or a third of a small corpus;
            else 8.
        max_steps: of each training, in place of its epochs.
        patience: rounds in a row without a gain after which the loop ends. A gain has a p-value
            below 0.05, which on few held-out queries a real one seldom has.
        held_out: queries in each of dev and test, where they are not given; at most a fifth of the
            pairs. Of those that are generated a quarter is of passages that no query is trained on.
        language: of the corpus, such as "German": the generator writes in it, and BM25 has its
            stems and stop words. Default: the generator is not told, and words are English.
        keep: share of the old retriever's weights in the new one's, so that it stays as good as it
            was on other text; 0.5 averages the two.
        replay: queries from elsewhere with `passages` (`CandidateLists`), on which the retriever is
            to stay as it is. They are trained on together with all other rows.
        training: options of `train_retriever` that differ from the usual ones: the queries' side
            alone, 2 epochs, batches of 32, learning rate 1e-4; with `freeze_passages: False` both
            sides, batches of 8, learning rate 3e-5.
        tuning: options of `train_generator` that differ from the original's.
        generator_weights: folder of the weights of a generator that is behind a server or in vLLM.
            Without it such a generator is not tuned.
        checkpoint_steps: steps between two checkpoints.
        launch: starts trainers in processes of their own: `"accelerate launch --num_processes 8"`.
        engine: `"datasets"` or `"ray"`; what maps the steps.
        engine_options: of `run`: `{"num_proc": 2}`, with Ray `{"concurrency": 8, "num_gpus": 1}`.
        seed: of all draws; a round adds its number.
        dry_run: do nothing but say what each stage will do, ask and cost.

    Raises:
        ImportError: an extra is missing: `pip install "rir-hf[boost]"`.
        TypeError: a retriever that is no sentence-transformers model on disk or the Hub, a
            generator that cannot generate.
        ValueError: an option out of range, a missing column, written kinds without a generator, too
            few held-out queries.
        NotADirectoryError: `output` is a file.
        FileExistsError: it is a folder of something else.
        BlockingIOError: another process runs in `output`.

    Example:
        >>> result = boost("corpus.jsonl", "BAAI/bge-base-en-v1.5", "Qwen/Qwen3-8B",
        ...     task="Given a claim, find the abstract that supports or refutes it",
        ...     rounds=2, output="runs/claims")                                   # doctest: +SKIP
        >>> result.retriever                                                      # doctest: +SKIP
        'runs/claims/round-1/retriever'
    """
    trained = with_usual(training or {})
    freezes = bool(trained["freeze_passages"])
    budget = usual_budget(1, passages, queries_per_passage)  # that of the corpus once it is read
    options = Options(
        task=task,
        language=language,
        passages=budget[0],
        queries_per_passage=budget[1],
        written=written,
        kinds=kinds_of(kinds, generator),
        word_dropout=word_dropout,
        repeat_queries=repeat_queries,
        min_quality=min_quality,
        examples=tuple(dict(example) for example in examples),
        answers=answers,
        answer_words=answer_words,
        require_gain=require_gain,
        candidates=usual_candidates(freezes) if candidates is None else candidates,
        max_steps=max_steps,
        keep=keep,
        training=trained,
        tuning=dict(tuning or {}),
        checkpoint_steps=checkpoint_steps,
        launch=launch,
        seed=seed,
    )
    check(options, generator, rounds, patience, held_out, engine, engine_options or {})
    with_both = {"with_labels": pairs is not None, "with_generator": generator is not None}
    options = checked_trainers(options, **with_both)
    check_launch(launch)
    first = trainable(retriever)
    check_sides(first, options)
    llm = None if generator is None else as_llm(generator, "generate", "boost")
    weights = None if generator_weights is None else Path(generator_weights)
    tuned = tunable(llm, weights) if options.answers > 1 else None
    if tuned is not None:
        check_no_adapter(**tuned)
    folder = RunFolder(Path(output))
    texts = corpus_of(corpus)
    distinct = {text for text in texts["text"] if is_text(text)}
    if not distinct:
        raise ValueError("The corpus has no passage with a text.")
    for name, scorer in (("teacher", teacher), ("queries_teacher", queries_teacher)):
        check_teacher(name, scorer)
    budget = usual_budget(len(distinct), passages, queries_per_passage)
    options = replace(options, passages=budget[0], queries_per_passage=budget[1])
    if candidates is None:
        options = replace(options, candidates=usual_candidates(freezes, len(distinct)))
    check_candidates(options, len(distinct))
    check_replay(replay, options)
    labelled = given_queries(pairs, LABELLED, texts)
    unlabelled = given_queries(queries, UNLABELLED, texts)
    if not options.passages + len(labelled) + len(unlabelled):
        raise ValueError("passages=0 leaves nothing to train on without queries or pairs.")
    if queries_teacher is not None and queries is None:
        raise ValueError("queries_teacher has nothing to score without queries.")
    for_dev = held_out_of(judged_of(dev, None, "dev"), texts, "dev")
    for_test = held_out_of(judged_of(test, None, "test"), texts, "test")
    warn_of_common(for_dev, for_test)
    unnamed = len(distinct.difference(chain.from_iterable(labelled["pos"])))
    sizes = sizes_of(held_out, for_dev, for_test, unnamed, len(labelled))
    if dry_run:
        stages = planned(
            folder,
            options,
            rounds,
            corpus=len(texts),
            labelled=len(labelled),
            unlabelled=len(unlabelled),
            held_out=sizes,
            with_generator=llm is not None,
            is_tuned=tuned is not None,
        )
        rows = Dataset.from_list([stage._asdict() for stage in stages])
        return Boosted(_name_of(first), _name_of(llm), rows, None)
    runner = partial(_mapped, engine=engine, **(engine_options or {}))
    check_generator(llm)
    with alone_in(folder.root):
        own = queries_teacher or teacher
        aside = SetAside(folder, texts, options, first, own, llm, runner, sizes)
        dev_stage, test_stage, labelled, unlabelled = aside.stages(
            for_dev, for_test, labelled, unlabelled
        )
        given = concatenate_datasets([labelled, unlabelled])
        setup = Setup(
            corpus=texts,
            corpus_key=aside.corpus_key,
            given=given,
            given_key=digest_of_rows(given),
            replay=replay,
            replay_key=None if replay is None else digest_of_rows(replay),
            dev=dev_stage,
            test=test_stage,
            set_aside=aside.passages,
            kept_back=kept_back(dev_stage.rows(), test_stage.rows()),
            twins=aside.twins,
            options=options,
            teacher=teacher,
            queries_teacher=queries_teacher,
            generator_weights=weights,
            folder=folder,
            run=runner,
        )
        asked = {"rounds": rounds, "patience": patience, "held_out": held_out}
        write_json(folder.root / "settings.json", _said(setup, first, llm, asked))
        return _looped(setup, first, llm, rounds, patience)


def _looped(setup: Setup, first: Retriever, llm: LLM | None, rounds: int, patience: int) -> Boosted:
    """The rounds, then the one look at the test queries."""
    retriever, generator = first, llm
    rows = [row_of(0, stage) for stage in (setup.dev, setup.test)]
    used: frozenset[str] = frozenset()
    without_gain = 0
    for number in range(1, rounds + 1):
        each = Round(setup, number, retriever, generator, used)
        go(each)
        rows += [row_of(number, stage, each.verdicts) for stage in each.stages]
        for stage, why in each.left_out.items():
            rows.append({"round": number, "stage": stage, "counts": json.dumps({"left out": why})})
        write_table(setup.folder, rows)
        used |= each.passages_used
        retriever, generator = each.retriever, each.generator
        gains = [verdict["gain"] for verdict in each.verdicts.values()]
        without_gain = 0 if any(gains) else without_gain + 1
        if without_gain >= patience and number < rounds:
            logger.info("%d rounds without a gain: the loop ends.", without_gain)
            break
    found = _test(setup, first, retriever)
    rows.append({"round": number, "stage": "test", **found})
    table = write_table(setup.folder, rows)
    page = write_page(setup.folder.root)
    if retriever is first:
        logger.info("No retriever was better: it is the one that you began with.")
    logger.info("%s. %s", in_words(found, "test"), page)
    if found["kinds"]:
        logger.info("By kind, before and after: %s", found["kinds"])
    return Boosted(_name_of(retriever), _name_of(generator), table, page)


def _test(setup: Setup, first: Retriever, last: Retriever) -> dict[str, Any]:
    """The last retriever against the first on the test queries."""
    key = {"test": setup.test.key, "first": key_of(first), "last": key_of(last)}
    earlier = (setup.folder.record("test") or {}).get("value", {})
    looks = earlier["looks"] if earlier.get("test") == setup.test.key else 0

    def look() -> dict[str, Any]:
        if looks:
            logger.warning(
                "The test queries have been looked at before (%d times): settings that are chosen "
                "by what they say make them too optimistic.",
                looks,
            )
        judge = setup.judge(setup.test)
        before, after = judge.values(first), judge.values(last)
        write_changed(setup.folder.root / "held_out" / "changed.jsonl", setup.test, before, after)
        rows = told_apart(judge.held_out, setup.labelled_passages)
        return {**verdict_on(after, before, rows), "test": setup.test.key, "looks": looks + 1}

    found = setup.folder.value("test", key, look)
    return {name: value for name, value in found.items() if name not in ("test", "looks")}


def _mapped(ds: Dataset, step: Step, **options: Any) -> Dataset:
    """`run`, and once more for the rows that failed."""
    rows = run(ds, step, **options)
    if step.failures and set(step.counts(rows)) & set(step.failures):
        return retry(rows, step, **options)
    return rows


def kinds_of(kinds: Sequence[str] | str | None, generator: Any) -> tuple[str, ...]:
    """The kinds of query, those that can be made where none are named.

    Example:
        >>> kinds_of("claim", "a model"), kinds_of(None, None)
        (('claim',), ('sentence', 'title'))
    """
    if isinstance(kinds, str):
        return (kinds,)
    return tuple(kinds or (_TAKEN if generator is None else _WRITTEN_TOO))


def _name_of(model: Any) -> str | None:
    """Folder or name of a model; None for one that is not in this process."""
    is_here = isinstance(model, (Retriever, ChatLLM, CompletionLLM))
    return model.model if is_here and isinstance(model.model, str) else None


def _said(
    setup: Setup, retriever: Retriever, llm: LLM | None, asked: Mapping[str, int]
) -> dict[str, Any]:
    """What was asked for, without a secret."""
    said = {
        "retriever": record_of(retriever),
        "generator": record_of(llm),
        "teacher": record_of(setup.teacher),
        "queries_teacher": record_of(setup.queries_teacher),
        **asked,
        "passages in the corpus": len(setup.corpus),
        "queries given": len(setup.given),
        **{name: record_of(value) for name, value in vars(setup.options).items()},
    }
    if setup.options.launch:
        said["launch"] = command_without_secrets(setup.options.launch)
    return dict(without_secrets(said))
