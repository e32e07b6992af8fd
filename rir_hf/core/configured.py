"""Objects that are their settings: cache key, pickle and provenance record in one place, for steps,
models and teachers alike.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher

# The one private name of another library that is called here. `datasets` hashes a map function by
# pickling it, and offers no public way to make the two differ: a worker needs the path of a
# checkpoint, the cache key must not hold it (datasets 5.2, September 2026).
from datasets.utils._dill import pklregister
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HTTPError

from rir_hf.core.columns import fingerprint_of
from rir_hf.core.digests import digest_of
from rir_hf.core.secrets import without_secrets


class Configured:
    """Base class of whatever is described by its settings.

    A subclass stores its arguments under their own names, and puts what it loads or builds late
    into a `cached_property` whose name begins with an underscore. It then

    - has a `key` of its class's name, `version` and settings, by which `datasets` knows it: the
      same in every process, with the model loaded or not, wherever the files lie;
    - travels to other processes with its settings alone;
    - has a `record` for the provenance of what it made.

    Example:
        >>> class Repeat(Configured):
        ...     def __init__(self, times: int, *, device: str = "cpu") -> None:
        ...         self.times = times
        ...         self.device = device
        ...     without_effect = ("device",)
        >>> Repeat(2, device="cuda").key()
        {'class': 'Repeat', 'version': 1, 'settings': {'times': 2}}
    """

    version: ClassVar[int] = 1
    """Raised whenever the result for the same input changes: older cached results are then computed
    again. The code of a class of your own is in its key anyway, functions that it calls are not.
    """

    without_effect: ClassVar[tuple[str, ...]] = ()
    """Settings that do not change the result (a device, a batch size) or must not be written down
    (an API key).
    """

    models: ClassVar[Mapping[str, str]] = {}
    """Settings that name a model, each with the attribute whose content is its identity."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        @pklregister(cls)
        def save(pickler: Any, obj: Configured) -> None:
            pickler.save_reduce(str, (json.dumps(obj.key(), sort_keys=True),), obj=obj)

    def settings(self) -> dict[str, Any]:
        """The attributes whose name does not begin with an underscore."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def key(self) -> dict[str, Any]:
        """What decides the result, as plain values: class name, version and settings, and of a
        class of another package its code. No path, no device, no secret.
        """
        settings = {}
        for name, value in self._deciding():
            settings[name] = self._identity_of(name) if name in self.models else key_of(value)
        key = {"class": type(self).__name__, "version": self.version, "settings": settings}
        code = _code_of(type(self).__mro__)
        return {**key, "code": code} if code else key

    def record(self) -> dict[str, Any]:
        """What the provenance of a dataset says of this object: its class and settings, for a
        person to read, without secrets.
        """
        settings = {}
        for name, value in self._deciding():
            settings[name] = self._shown(name) if name in self.models else record_of(value)
        return {"class": type(self).__name__, **without_secrets(settings)}

    def to(self, device: str) -> None:
        """Put whatever runs on a device there, now or when it is loaded."""
        for value in self.settings().values():
            for part in value if isinstance(value, (list, tuple)) else (value,):
                if hasattr(part, "to") and not isinstance(part, Dataset):
                    part.to(device)

    def _deciding(self) -> Iterator[tuple[str, Any]]:
        """The settings that decide the result."""
        for name, value in self.settings().items():
            if name not in self.without_effect:
                yield name, value

    def __getstate__(self) -> dict[str, Any]:
        return self.settings()

    def _keep_identity(self, name: str = "model") -> str | None:
        """To be called just before a model is loaded: from now on the key is that of what was
        loaded, whatever becomes of its files, so that old weights can never fill the cache under
        the key of new ones.

        Returns:
            The revision to load, as `revision_of` gives it.

        Raises:
            RuntimeError: the files have changed since a part of the model was loaded.
        """
        model, revision = self._place_of(name)
        identity = identity_of_model(model, revision)
        kept = self.__dict__.setdefault("_loaded_identities", {})
        if kept.setdefault(name, identity) != identity:
            raise RuntimeError(
                f"The files of {model} have changed since its tokenizer was loaded from there: "
                f"make a new {type(self).__name__}."
            )
        return revision_of(model, revision)

    def _identity_of(self, name: str) -> str:
        kept = self.__dict__.get("_loaded_identities", {})
        return kept[name] if name in kept else identity_of_model(*self._place_of(name))

    def _place_of(self, name: str) -> tuple[Any, str | None]:
        """A model and, where that is a Hub name, its branch, tag or commit."""
        return getattr(self, self.models[name]), getattr(self, "revision", None)

    def _shown(self, name: str) -> str:
        """A Hub model's name and commit; for a folder the last part of its path with its digest,
        which alone says nothing to a person.
        """
        source, identity = getattr(self, self.models[name]), self._identity_of(name)
        is_place = isinstance(source, (str, os.PathLike)) and Path(source).exists()
        return f"{Path(source).name} ({identity})" if is_place else identity


@cache
def _code_of(classes: tuple[type, ...]) -> str:
    """The digest of the code of a class and of its bases, as far as they are not of this package;
    empty for a class of this package.
    """
    ours = __name__.partition(".")[0]
    if classes[0].__module__.partition(".")[0] == ours:
        return ""
    own = [each for each in classes if each.__module__.partition(".")[0] not in (ours, "abc")]
    parts = [
        [name, _code_in(value)]
        for each in own
        for name, value in sorted(vars(each).items())
        if each is not object and (not name.startswith("_") or hasattr(value, "__code__"))
    ]
    return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def _code_in(value: Any) -> Any:
    """What of an attribute of a class decides its result, as plain values."""
    for name in ("__func__", "fget", "func"):  # of methods and properties
        value = getattr(value, name, value)
    code = getattr(value, "__code__", value)
    if isinstance(code, CodeType):
        return [code.co_code.hex(), code.co_names, [_code_in(each) for each in code.co_consts]]
    if isinstance(code, (frozenset, set)):
        return sorted(map(repr, code))
    if isinstance(code, (list, tuple)):
        return [*map(_code_in, code)]
    return repr(code) if isinstance(code, (str, bytes, int, float)) else None


def key_of(value: Any) -> Any:
    """A setting as plain values that are the same in every process.

    An object of another package is what its own `identity()` returns, or a hash of its pickled
    content.
    """
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [key_of(item) for item in value]
    if isinstance(value, Mapping):
        return {
            str(name): key_of(item)
            for name, item in sorted(value.items(), key=lambda item: str(item[0]))
        }
    if isinstance(value, Configured):
        return value.key()
    if isinstance(value, Dataset):
        return fingerprint_of(value)
    if callable(getattr(value, "identity", None)):
        return value.identity()
    return f"hash:{Hasher.hash(value)}"


def record_of(value: Any) -> Any:
    """A setting as plain JSON for a person: its record, size or class where it is not plain."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [record_of(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): record_of(item) for name, item in value.items()}
    if isinstance(value, Configured):
        return value.record()
    if isinstance(value, Dataset):
        return {"rows": len(value)}
    if callable(getattr(value, "identity", None)):
        return {"class": type(value).__name__, "identity": value.identity()}
    return type(value).__name__


def identity_of_model(model: Any, revision: str | None = None) -> str:
    """Name and commit of a Hub model, or a digest of the content of a local folder or file, or of a
    loaded model's weights and settings.

    An adapter is itself and the identity of its base.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        return (
            f"weights:{_digest_of_weights(model)}"
            if hasattr(model, "state_dict")
            else str(key_of(model))
        )
    path = Path(model)
    if not path.exists():
        commit = commit_of(model, revision)
        return f"{model}@{commit}{_on_base(_adapter_on_hub(model, commit))}" if commit else model
    adapter = path / "adapter_config.json"
    return f"content:{digest_of(path)}{_on_base(adapter if adapter.exists() else None)}"


def _on_base(adapter: Path | None) -> str:
    """The identity of the model that an adapter's configuration names, as the end of its own."""
    if adapter is None:
        return ""
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return f" on {identity_of_model(base)}" if base else ""


@cache
def _adapter_on_hub(name: str, commit: str) -> Path | None:
    """The configuration of an adapter on the Hub; None for a whole model."""
    if _has_config(name, commit):
        return None
    with suppress(HTTPError, OSError, ValueError):
        return Path(hf_hub_download(name, "adapter_config.json", revision=commit))
    return None


def _has_config(name: str, commit: str) -> bool:
    """Whether a Hub model is a whole one, as far as `commit_of` has seen."""
    return isinstance(try_to_load_from_cache(name, "config.json", revision=commit), str)


def revision_of(model: Any, revision: str | None) -> str | None:
    """The revision to load: of a Hub model the commit that its identity names, of a Hub adapter
    what was given, since transformers takes it for the base's revision too.
    """
    is_hub_name = isinstance(model, str) and not Path(model).exists()
    commit = commit_of(model, revision) if is_hub_name else None
    return commit if commit and _has_config(model, commit) else revision


@cache
def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit at which a branch or tag of a Hub model stands: what the Hub says, or without an
    answer the Hub's cache on this machine; None where neither knows. It stays the same as long as
    the process lives.

    A file is asked for, and not the commit alone, so that the cache knows it afterwards, too.
    """
    revision = revision or constants.DEFAULT_REVISION
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    with suppress(HTTPError, OSError, ValueError):
        hf_hub_download(name, "config.json", revision=revision)
    # https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes these folders.
    folder = f"models--{name.replace('/', '--')}"
    reference = Path(constants.HF_HUB_CACHE, folder, "refs", revision)
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


def require_place(model: Any) -> None:
    """Raise `FileNotFoundError` for a path, as opposed to a Hub name, at which nothing is."""
    if (
        isinstance(model, str)
        and not Path(model).exists()
        and (Path(model).is_absolute() or model.startswith(("./", "../", "~")))
    ):
        raise FileNotFoundError(f"There is no model at {model}.")


def _digest_of_weights(model: Any) -> str:
    """Digest of the weights of a loaded torch model, its structure and the settings that change
    what it computes.
    """
    import torch

    settings = [repr(getattr(model, name, None)) for name in ("prompts", "max_seq_length")]
    if getattr(model, "config", None) is not None:
        settings += [
            f"{name}={value}"
            for name, value in sorted(model.config.to_dict().items())
            if name != "_name_or_path"
        ]
    digest = xxhash.xxh3_128("\n".join([*settings, str(model)]).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {weights.dtype}".encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
