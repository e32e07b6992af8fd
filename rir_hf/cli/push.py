"""`rir-hf push`: rows in, a config of a Hub dataset with its card out."""

from __future__ import annotations

import logging

from rir_hf.cli.checks import check_sources, check_token
from rir_hf.cli.inputs import CorpusOptions
from rir_hf.cli.options import DryRun
from rir_hf.hub.layout import check_config, check_revision

logger = logging.getLogger(__name__)


def command(
    passages: CorpusOptions,
    dry: DryRun,
    rows: str,
    repo: str,
    config_name: str = "default",
    split: str | None = None,
    limit: int | None = None,
    corpus: str | None = None,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    language: list[str] | None = None,
    tags: list[str] | None = None,
    commit_message: str | None = None,
) -> None:
    """Send rows to the Hub. The token is that of `hf auth login`, or HF_TOKEN.

    rir-hf push --rows mined --repo me/my-negatives --config_name mined --license cc-by-4.0

    The folder of a run of boost is sent as a whole: its rows as configs, its page, and the models
    it kept to me/scifact-retriever and me/scifact-generator.

    rir-hf push --rows runs/scifact --repo me/scifact

    Args:
        rows: a file, a folder, a Hub name, a run of boost.
        repo: the repository, which is made where it is not there.
        config_name: name of the config in the repository.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        corpus: the corpus that was searched, to be sent along.
        private: make a new repository private.
        revision: branch to push to; none: main.
        license: of the rows, for the card, cc-by-4.0 for example.
        language: languages of the rows, for the card, en for example.
        tags: further tags for the card.
        commit_message: of the commit.
    """
    check_config(config_name, "--config_name")
    check_revision(revision)
    if corpus is not None and config_name == "corpus":
        raise ValueError("--corpus goes to the config corpus: give --config_name another name")
    check_sources(rows, corpus)
    check_token(repo)
    from rir_hf import load_rows, push
    from rir_hf.boosting.push_run import is_run, push_run

    if is_run(rows):
        given = {
            "config_name": config_name != "default",
            "split": split is not None,
            "limit": limit is not None,
            "corpus": corpus,
            "revision": revision,
            "tags": tags,
            "commit_message": commit_message,
        }
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise ValueError(f"{rows} is a run of boost, with which --{wrong[0]} does not go")
        if dry.says(f"send the run {rows} to {repo}"):
            return
        pushed = push_run(rows, repo, private=private or None, license=license, language=language)
        logger.info("Pushed to %s: %s", repo, ", ".join(pushed))
        return
    found = load_rows(rows, split, limit=limit)
    searched = passages.load(corpus) if corpus else None
    beside = f", {len(searched):,} passages as its config corpus" if searched else ""
    if dry.says(f"send {len(found):,} rows to {repo} as its config {config_name}{beside}"):
        return
    done = push(
        found,
        repo,
        config_name,
        corpus=searched,
        private=private or None,
        revision=revision,
        license=license,
        language=language,
        tags=tags or (),
        commit_message=commit_message,
    )
    logger.info("Pushed to %s: %s", repo, done.commit_url)
