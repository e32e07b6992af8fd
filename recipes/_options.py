"""Options that several recipes share: a retriever, a language model, how maps are run, and where on the Hub the result goes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TypeVar

from datasets import Dataset, IterableDataset
from huggingface_hub import HfApi

from rir_hf import ChatLLM, CompletionLLM, OpenAIChat, Retriever, map_in_shards, push, ray_map
from rir_hf.transform import BatchTransform

Rows = TypeVar("Rows", Dataset, IterableDataset)


def log_plainly() -> None:
    """What the package says, as it is, without a line for each request of a library below."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("faiss", "httpx", "httpx2", "matplotlib", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def add_retriever(parser: argparse.ArgumentParser) -> None:
    """Options that describe a retriever."""
    group = parser.add_argument_group("retriever")
    group.add_argument("--model", required=True, help="Hub name or folder of a sentence-transformers model")
    group.add_argument("--revision", help="branch, tag or commit of a Hub model")
    group.add_argument("--query_prompt", help="text before each query (default: the one stored with the model)")
    group.add_argument("--passage_prompt", help="text before each passage (default: the one stored with the model)")
    group.add_argument("--max_length", type=int, default=512, help="tokens after which a text is cut (default: %(default)s)")


def load_retriever(options: argparse.Namespace) -> Retriever:
    """The retriever that the options describe."""
    return Retriever(
        options.model,
        revision=options.revision,
        query_prompt=options.query_prompt,
        passage_prompt=options.passage_prompt,
        max_length=options.max_length,
    )


def add_engine(parser: argparse.ArgumentParser, rows_per_shard: int) -> None:
    """Options that say how long maps are run."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine", default="datasets", choices=["datasets", "ray"], help="what runs the maps (default: %(default)s)"
    )
    group.add_argument(
        "--rows_per_shard", type=positive,
        help=f"a killed run goes on where it was, but for so many rows (default: {rows_per_shard}; with ray: all)",
    )  # fmt: skip
    parser.set_defaults(usual_shard=rows_per_shard)
    group.add_argument("--actors", type=positive, default=1, help="processes, each with a model (default: %(default)s; with ray)")
    group.add_argument("--gpus_per_actor", type=float, help="GPUs of each (default: none; with ray)")


def run_map(rows: Rows, function: BatchTransform, options: argparse.Namespace, batch_size: int, desc: str | None = None) -> Rows:
    """Map the rows with the engine that the options name; a stream is mapped as it is read."""
    if isinstance(rows, IterableDataset):
        return rows.map(function, batched=True, batch_size=batch_size)
    if options.engine == "ray":
        actors = {"concurrency": options.actors, "num_gpus": options.gpus_per_actor}
        return ray_map(rows, function, batch_size=batch_size, rows_per_shard=options.rows_per_shard, **actors)
    shard = options.rows_per_shard or options.usual_shard
    return map_in_shards(rows, function, rows_per_shard=shard, batched=True, batch_size=batch_size, desc=desc)


def add_llm(parser: argparse.ArgumentParser, role: str) -> None:
    """Options that describe a language model."""
    group = parser.add_argument_group(role)
    group.add_argument("--generate_model_path", required=True, help=f"the {role}: Hub name, folder, or name at the server")
    group.add_argument(
        "--model_type", default="llm_instruct", choices=["llm", "llm_instruct", "gpt"],
        help="llm: a model without chat template; llm_instruct: with one; gpt: behind a server (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--gguf_file", help="name of a GGUF file in the model's folder")
    group.add_argument("--dtype", help="bfloat16, float16 or float32 (default: the model's own, float32 on the CPU)")
    group.add_argument("--no_thinking", action="store_true", help="tell the chat template enable_thinking=False, as Qwen3 needs it")
    group.add_argument("--base_url", help="address of an OpenAI-compatible server (default: OpenAI)")
    group.add_argument("--api_key", help="key of the server; better in the environment as OPENAI_API_KEY")
    group.add_argument("--concurrency", type=int, default=16, help="requests in flight (default: %(default)s)")
    group.add_argument(
        "--max_length", type=int, help="tokens of prompt and answer (default: what the model says; for a server: any)"
    )


def check_llm(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a message where the options of a language model contradict each other."""
    if options.base_url is not None and options.model_type != "gpt":
        parser.error("--base_url goes with --model_type gpt")
    if options.gguf_file is not None and options.model_type == "gpt":
        parser.error("--gguf_file does not go with --model_type gpt: the server has its own model")


def load_llm(options: argparse.Namespace) -> ChatLLM | OpenAIChat:
    """The language model that the options describe."""
    thinking = {"enable_thinking": False} if options.no_thinking else {}
    if options.model_type == "gpt":
        return OpenAIChat(
            options.generate_model_path,
            base_url=options.base_url,
            api_key=options.api_key,
            concurrency=options.concurrency,
            max_length=options.max_length,
            extra_body={"chat_template_kwargs": thinking} if thinking else None,
        )
    kind = CompletionLLM if options.model_type == "llm" else ChatLLM
    return kind(
        options.generate_model_path,
        gguf_file=options.gguf_file,
        dtype=options.dtype,
        max_length=options.max_length,
        template_arguments=thinking,
    )


def add_push(parser: argparse.ArgumentParser, config: str | None = None) -> None:
    """Options that send the result to the Hub; without a config it is a model."""
    group = parser.add_argument_group("Hub")
    group.add_argument(
        "--push_to_hub", metavar="REPO", help="send the result there; the token is that of hf auth login, or HF_TOKEN"
    )
    group.add_argument("--private", action="store_true", help="make a new repository private")
    if config is not None:
        group.add_argument("--hub_config", default=config, help="name of the config in the repository (default: %(default)s)")
        group.add_argument("--license", help="of the rows, for the card, cc-by-4.0 say")
        group.add_argument("--language", help="of the rows, for the card, en say")


def push_rows(rows: Dataset, options: argparse.Namespace, config: str | None = None, *, corpus: Dataset | None = None) -> None:
    """Send rows to the Hub, if asked."""
    if options.push_to_hub:
        where = {"private": options.private or None, "license": options.license, "language": options.language, "corpus": corpus}
        done = push(rows, options.push_to_hub, config or options.hub_config, **where)
        logging.info("Pushed to %s: %s", options.push_to_hub, done.commit_url)


def push_model(folder: Path, options: argparse.Namespace) -> None:
    """Send a folder with a model to the Hub, if asked."""
    if options.push_to_hub:
        api = HfApi()
        repo_id = api.create_repo(options.push_to_hub, private=options.private or None, exist_ok=True).repo_id
        done = api.upload_folder(folder_path=folder, repo_id=repo_id, ignore_patterns=["checkpoint-*"])
        logging.info("Pushed to %s: %s", repo_id, done.commit_url)
