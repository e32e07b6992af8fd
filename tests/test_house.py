"""The order of the rooms: each folder imports only those above it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import rir_hf

ORDER = [
    "schema",
    "core",
    "models",
    "evaluation",
    "index",
    "mining",
    "teaching",
    "generation",
    "export",
    "reports",
    "hub",
    "data",
    "running",
    "training",
    "boosting",
    "cli",
]
PACKAGE = Path(rir_hf.__file__).parent


def test_each_folder_imports_only_folders_above_it() -> None:
    for path in PACKAGE.glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rir_hf."):
                other = (node.module or "").split(".")[1]
                assert ORDER.index(other) <= ORDER.index(path.parent.name), (
                    f"{path} imports {node.module}"
                )


def test_no_folder_has_a_circle() -> None:
    for folder in {path.parent for path in PACKAGE.glob("*/*.py")}:
        imports = {}
        for path in folder.glob("*.py"):
            others = [node.module or "" for node in ast.walk(ast.parse(path.read_text("utf-8")))
                      if isinstance(node, ast.ImportFrom)]  # fmt: skip
            mine = f"rir_hf.{folder.name}."
            imports[path.stem] = {name.removeprefix(mine) for name in others if mine in name}
        list(TopologicalSorter(imports).static_order())  # raises CycleError, which names the files


def test_every_folder_has_its_place_in_the_order_and_no_public_name() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(ORDER)
    assert not folders & set(rir_hf.__all__)


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in set(rir_hf.__all__) - {"__version__"}:
        assert getattr(rir_hf, name).__doc__, name
