"""Modules of packages that do not import here as a whole."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest


def from_wheel(package: str, folder: str, module: str) -> Any:
    """A module of a package whose other modules do not import here: the folder as a package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"pip install --no-deps {package}")
    alone = types.ModuleType(f"{package}_alone")
    alone.__path__ = [str(Path(spec.submodule_search_locations[0], folder))]
    sys.modules[alone.__name__] = alone
    return importlib.import_module(f"{alone.__name__}.{module}")
