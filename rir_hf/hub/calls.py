"""Requests to the Hub: tried again where the fault passes, and with errors that say what to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TRIES = 5
FIRST_WAIT = 1.0
"""Seconds before the second try; each later wait is twice as long."""
FIRST_ANSWER = 10.0
"""Seconds that the Hub has to answer the first question."""
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}
_REMEDY = "hf auth login, HF_TOKEN, or token=..."


def trying(call: Callable[[], Result], *, is_first: bool = False) -> Result:
    """The call's result, after up to `TRIES` tries where a conflict or fault of the Hub passes.

    Args:
        call: asks the Hub.
        is_first: it is the first question: where the Hub cannot be reached, it is the last one.
    """
    wait = FIRST_WAIT
    attempt = 1
    while True:
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:
            cause = _cause_of(error)
            if is_first and is_unreachable(cause):
                message = f"The Hub ({constants.ENDPOINT}) cannot be asked: {cause}"
                raise ConnectionError(message) from cause
            if attempt == TRIES or not _is_passing(cause):
                raise cause from (None if cause is error else error)
        attempt += 1
        message = "The Hub: %s. Try %d of %d in %.0f s."
        logger.warning(message, reason_of(cause), attempt, TRIES, wait)
        time.sleep(wait)
        wait *= 2


@contextmanager
def explaining(repo_id: str) -> Iterator[None]:
    """Turn what the Hub refuses into errors that name the repository and the remedy."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo_id} has no such revision: {error}") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} is not on the Hub, or it is private and the token does not reach it: "
            f"{_REMEDY}"
        ) from error
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        if status_of(error) not in (None, 401, 403):
            raise
        raise PermissionError(
            f"A token with write access to {repo_id} is needed: {_REMEDY} ({error})"
        ) from error


def head_of(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """The commit at which a branch or tag stands; without a connection what was asked for."""
    try:
        info = api.repo_info(repo_id, repo_type="dataset", revision=revision, timeout=FIRST_ANSWER)
        return info.sha
    except OfflineModeIsEnabled:
        return revision


def check_token(token: str, repo_id: str) -> None:
    """Ask the Hub once whether it knows a token, and whether that can write.

    Another answer than a refusal, a fault of the Hub for example, says nothing of the token.

    Args:
        token: to push with.
        repo_id: where to, for the errors.

    Raises:
        ConnectionError: the Hub cannot be asked.
        PermissionError: it does not know the token, or lets it read alone.
    """
    url, headers = f"{constants.ENDPOINT}/api/whoami-v2", build_hf_headers(token=token)
    try:  # `whoami` of `HfApi` would wait without an end
        answer = get_session().get(url, headers=headers, timeout=FIRST_ANSWER)
    except (HTTPError, OSError) as error:
        raise ConnectionError(f"The Hub ({constants.ENDPOINT}) cannot be asked: {error}") from error
    needed = f"A token with write access to {repo_id} is needed"
    if answer.status_code in (401, 403):
        raise PermissionError(f"{needed}, the Hub does not know this one: {_REMEDY}")
    owner = None
    if answer.status_code == 200:
        with suppress(ValueError):  # no JSON
            owner = answer.json()
    if role_of(owner) == "read":
        raise PermissionError(f"{needed}, this one can only read: {_REMEDY}")


def role_of(owner: Any) -> str | None:
    """What a token may do as the Hub says it: `read`, `write`, `fineGrained`; None: not said.

    Example:
        >>> role_of({"name": "me", "auth": {"accessToken": {"role": "read"}}})
        'read'
        >>> role_of({"name": "me"})
    """
    for name in ("auth", "accessToken", "role"):
        owner = owner.get(name) if isinstance(owner, dict) else None
    return owner


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, if the server answered at all."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_unreachable(error: BaseException) -> bool:
    """Whether there was no connection at all."""
    return type(error).__name__ in ("ConnectError", "ConnectTimeout")


def reason_of(error: BaseException) -> str:
    """An error in a few words for the log."""
    status = status_of(error)
    if status is not None:
        return f"status {status}"
    return f"{type(error).__name__} {error}".splitlines()[0][:200]


def _cause_of(error: BaseException) -> BaseException:
    """What went wrong below: `huggingface_hub` wraps a failed upload."""
    cause = error.__cause__
    is_wrapped = isinstance(error, RuntimeError) and isinstance(cause, (HTTPError, OSError))
    return cause if is_wrapped and cause is not None else error


def _is_passing(error: BaseException) -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    is_broken = isinstance(error, (HTTPError, ConnectionError, TimeoutError))
    return is_broken or "Consistency check failed" in str(error)


def upload(folder: str | Path, repo: str, kind: str, private: bool | None, **options: Any) -> str:
    """Send files of a folder as they are; the address of the commit.

    Args:
        folder: what is sent.
        repo: `"user/name"`, made where it is missing.
        kind: `"model"` or `"dataset"`.
        private: of a new repository.
        options: of `HfApi.upload_folder`.
    """
    api = HfApi(library_name="rir_hf")
    with explaining(repo):
        made = trying(lambda: api.create_repo(repo, repo_type=kind, private=private, exist_ok=True))
        done = trying(
            lambda: api.upload_folder(
                folder_path=folder, repo_id=made.repo_id, repo_type=kind, **options
            )
        )
    return str(done.commit_url)
