"""Training data for retrievers and query writers, as steps over Hugging Face datasets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_MODULES = {
    "core.configured": ("Configured",),
    "core.provenance": ("provenance",),
    "core.step": ("Step",),
    "models.retriever": ("Encoder", "Retriever"),
    "models.llm": ("LLM", "LLMError"),
    "models.local": ("ChatLLM", "CompletionLLM"),
    "models.server": ("OpenAIChat",),
    "models.vllm": ("VLLM",),
    "evaluation.metrics": ("evaluate",),
    "evaluation.comparison": ("compare", "confidence_interval"),
    "evaluation.fusion": ("fuse",),
    "evaluation.trec": ("read_qrels", "read_run", "write_qrels", "write_run"),
    "index.embed": ("Embed",),
    "index.attach": ("attach_index", "load_index", "save_index"),
    "index.lexical": ("attach_lexical",),
    "index.search": ("Search", "search"),
    "mining.candidates": ("CandidateLists",),
    "mining.negatives": ("MineNegatives",),
    "teaching.teacher": ("Teacher",),
    "teaching.pointwise": ("CrossEncoderTeacher", "QueryLikelihood", "YesNo"),
    "teaching.listwise": ("Listwise", "ListwiseLogits"),
    "teaching.blend": ("Blend", "MemberScores", "Similarities"),
    "teaching.signals": ("LexicalTeacher", "RetrieverTeacher"),
    "teaching.weights": ("fit_blend",),
    "teaching.temperature": ("fit_temperature",),
    "teaching.parsing": ("parse_ranking",),
    "teaching.passages": ("ScorePassages",),
    "teaching.relabel": ("RelabelNegatives",),
    "teaching.margin": ("recommend_margin",),
    "teaching.thresholds": ("recommend_relabelling",),
    "generation.queries": ("GenerateQueries",),
    "generation.answers": ("GenerateAnswers",),
    "generation.preferences": ("PreferencePairs",),
    "export.retrievers": (
        "from_flagembedding",
        "to_flagembedding",
        "to_sentence_transformers",
        "to_tevatron",
    ),
    "export.joined": ("to_automodel", "to_pylate"),
    "export.generators": ("to_llamafactory", "to_trl", "trl_lengths"),
    "reports.counts": ("as_table", "report"),
    "reports.plots": ("plot_report",),
    "reports.page": ("show", "write_report"),
    "hub.push": ("push",),
    "hub.pull": ("pull",),
    "data.load": (
        "load_corpus",
        "load_pairs",
        "load_queries",
        "stream_pairs",
    ),
    "data.qrels": ("load_qrels",),
    "data.sources": ("load_rows",),
    "data.split": ("split_by_group",),
    "data.rows": ("unnest",),
    "data.audit": ("audit", "leaks", "near_duplicates"),
    "running.run": ("run",),
    "running.retry": ("retry",),
    "training.retriever": ("train_retriever",),
    "training.generator": ("train_generator",),
    "training.reward": ("RetrievalReward",),
    "boosting.loop": ("Boosted", "boost"),
    "boosting.page": ("write_page",),
    "boosting.push_run": ("push_run",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:
    from rir_hf.boosting.loop import Boosted, boost
    from rir_hf.boosting.page import write_page
    from rir_hf.boosting.push_run import push_run
    from rir_hf.core.configured import Configured
    from rir_hf.core.provenance import provenance
    from rir_hf.core.step import Step
    from rir_hf.data.audit import audit, leaks, near_duplicates
    from rir_hf.data.load import load_corpus, load_pairs, load_queries, stream_pairs
    from rir_hf.data.qrels import load_qrels
    from rir_hf.data.rows import unnest
    from rir_hf.data.sources import load_rows
    from rir_hf.data.split import split_by_group
    from rir_hf.evaluation.comparison import compare, confidence_interval
    from rir_hf.evaluation.fusion import fuse
    from rir_hf.evaluation.metrics import evaluate
    from rir_hf.evaluation.trec import read_qrels, read_run, write_qrels, write_run
    from rir_hf.export.generators import to_llamafactory, to_trl, trl_lengths
    from rir_hf.export.joined import to_automodel, to_pylate
    from rir_hf.export.retrievers import (
        from_flagembedding,
        to_flagembedding,
        to_sentence_transformers,
        to_tevatron,
    )
    from rir_hf.generation.answers import GenerateAnswers
    from rir_hf.generation.preferences import PreferencePairs
    from rir_hf.generation.queries import GenerateQueries
    from rir_hf.hub.pull import pull
    from rir_hf.hub.push import push
    from rir_hf.index.attach import attach_index, load_index, save_index
    from rir_hf.index.embed import Embed
    from rir_hf.index.lexical import attach_lexical
    from rir_hf.index.search import Search, search
    from rir_hf.mining.candidates import CandidateLists
    from rir_hf.mining.negatives import MineNegatives
    from rir_hf.models.llm import LLM, LLMError
    from rir_hf.models.local import ChatLLM, CompletionLLM
    from rir_hf.models.retriever import Encoder, Retriever
    from rir_hf.models.server import OpenAIChat
    from rir_hf.models.vllm import VLLM
    from rir_hf.reports.counts import as_table, report
    from rir_hf.reports.page import show, write_report
    from rir_hf.reports.plots import plot_report
    from rir_hf.running.retry import retry
    from rir_hf.running.run import run
    from rir_hf.teaching.blend import Blend, MemberScores, Similarities
    from rir_hf.teaching.listwise import Listwise, ListwiseLogits
    from rir_hf.teaching.margin import recommend_margin
    from rir_hf.teaching.parsing import parse_ranking
    from rir_hf.teaching.passages import ScorePassages
    from rir_hf.teaching.pointwise import CrossEncoderTeacher, QueryLikelihood, YesNo
    from rir_hf.teaching.relabel import RelabelNegatives
    from rir_hf.teaching.signals import LexicalTeacher, RetrieverTeacher
    from rir_hf.teaching.teacher import Teacher
    from rir_hf.teaching.temperature import fit_temperature
    from rir_hf.teaching.thresholds import recommend_relabelling
    from rir_hf.teaching.weights import fit_blend
    from rir_hf.training.generator import train_generator
    from rir_hf.training.retriever import train_retriever
    from rir_hf.training.reward import RetrievalReward

__all__ = [
    "LLM",
    "VLLM",
    "Blend",
    "Boosted",
    "CandidateLists",
    "ChatLLM",
    "CompletionLLM",
    "Configured",
    "CrossEncoderTeacher",
    "Embed",
    "Encoder",
    "GenerateAnswers",
    "GenerateQueries",
    "LLMError",
    "LexicalTeacher",
    "Listwise",
    "ListwiseLogits",
    "MemberScores",
    "MineNegatives",
    "OpenAIChat",
    "PreferencePairs",
    "QueryLikelihood",
    "RelabelNegatives",
    "RetrievalReward",
    "Retriever",
    "RetrieverTeacher",
    "ScorePassages",
    "Search",
    "Similarities",
    "Step",
    "Teacher",
    "YesNo",
    "__version__",
    "as_table",
    "attach_index",
    "attach_lexical",
    "audit",
    "boost",
    "compare",
    "confidence_interval",
    "evaluate",
    "fit_blend",
    "fit_temperature",
    "from_flagembedding",
    "fuse",
    "leaks",
    "load_corpus",
    "load_index",
    "load_pairs",
    "load_qrels",
    "load_queries",
    "load_rows",
    "near_duplicates",
    "parse_ranking",
    "plot_report",
    "provenance",
    "pull",
    "push",
    "push_run",
    "read_qrels",
    "read_run",
    "recommend_margin",
    "recommend_relabelling",
    "report",
    "retry",
    "run",
    "save_index",
    "search",
    "show",
    "split_by_group",
    "stream_pairs",
    "to_automodel",
    "to_flagembedding",
    "to_llamafactory",
    "to_pylate",
    "to_sentence_transformers",
    "to_tevatron",
    "to_trl",
    "train_generator",
    "train_retriever",
    "trl_lengths",
    "unnest",
    "write_page",
    "write_qrels",
    "write_report",
    "write_run",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when it is first used, so that importing the package costs
    nothing.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return __all__
