"""Hard negatives, teacher scores and preference pairs for training retrievers, as maps over Hugging Face datasets."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "Retriever": "retriever",
    "Embed": "embed",
    "attach_index": "index",
    "load_index": "index",
    "save_index": "index",
    "Search": "search",
    "search": "search",
    "MineNegatives": "mine",
    "ChatLLM": "llm",
    "CompletionLLM": "llm",
    "OpenAIChat": "openai_chat",
    "VLLM": "vllm_engine",
    "ScorePassages": "teach",
    "RelabelFalseNegatives": "relabel",
    "parse_ranking": "ranking",
    "recommend_margin": "diagnose",
    "GenerateQueries": "generate",
    "GenerateAnswers": "generate",
    "PreferencePairs": "prefer",
    "to_sentence_transformers": "export",
    "to_flagembedding": "export",
    "from_flagembedding": "export",
    "to_pylate": "export",
    "to_tevatron": "export",
    "to_trl": "export_preferences",
    "trl_lengths": "export_preferences",
    "to_llamafactory": "export_preferences",
    "METRICS": "evaluate",
    "evaluate": "evaluate",
    "evaluate_better": "evaluate",
    "evaluate_mrr": "evaluate",
    "evaluate_queries": "evaluate",
    "confidence_interval": "evaluate",
    "compare_runs": "evaluate",
    "read_qrels": "evaluate",
    "read_run": "evaluate",
    "write_qrels": "evaluate",
    "write_run": "evaluate",
    "load_corpus": "load",
    "load_pairs": "load",
    "load_qrels": "load",
    "load_queries": "load",
    "load_rows": "load",
    "stream_pairs": "load",
    "report": "report",
    "report_teacher": "report",
    "report_generation": "report",
    "as_table": "report",
    "plot_report": "report",
    "push": "hub",
    "pull": "hub",
    "provenance": "provenance",
    "map_in_shards": "resume",
    "ray_map": "cluster",
}
__all__ = ["__version__", *_MODULES]

if TYPE_CHECKING:
    from rir_hf.cluster import ray_map
    from rir_hf.diagnose import recommend_margin
    from rir_hf.embed import Embed
    from rir_hf.evaluate import (
        METRICS,
        compare_runs,
        confidence_interval,
        evaluate,
        evaluate_better,
        evaluate_mrr,
        evaluate_queries,
        read_qrels,
        read_run,
        write_qrels,
        write_run,
    )
    from rir_hf.export import from_flagembedding, to_flagembedding, to_pylate, to_sentence_transformers, to_tevatron
    from rir_hf.export_preferences import to_llamafactory, to_trl, trl_lengths
    from rir_hf.generate import GenerateAnswers, GenerateQueries
    from rir_hf.hub import pull, push
    from rir_hf.index import attach_index, load_index, save_index
    from rir_hf.llm import ChatLLM, CompletionLLM
    from rir_hf.load import load_corpus, load_pairs, load_qrels, load_queries, load_rows, stream_pairs
    from rir_hf.mine import MineNegatives
    from rir_hf.openai_chat import OpenAIChat
    from rir_hf.prefer import PreferencePairs
    from rir_hf.provenance import provenance
    from rir_hf.ranking import parse_ranking
    from rir_hf.relabel import RelabelFalseNegatives
    from rir_hf.report import as_table, plot_report, report, report_generation, report_teacher
    from rir_hf.resume import map_in_shards
    from rir_hf.retriever import Retriever
    from rir_hf.search import Search, search
    from rir_hf.teach import ScorePassages
    from rir_hf.vllm_engine import VLLM


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used, so that importing the package costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


class _Package(ModuleType):
    """Keeps the names of public functions for the functions, where a module bears the same name (`search`)."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
