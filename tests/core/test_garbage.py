"""Garbage collection is put off for a batch, and never for longer."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from rir_hf.core.garbage import no_garbage_collection


def test_it_goes_on_after_an_error_and_stays_off_where_it_was_off() -> None:
    @no_garbage_collection()
    def fail() -> None:
        assert not gc.isenabled()
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail()
        assert gc.isenabled()
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_of_several_threads_the_last_one_ends_it() -> None:
    met = Barrier(2, timeout=30)

    def enter(is_last: bool) -> bool:
        with no_garbage_collection():
            met.wait()  # both are inside
            if is_last:
                met.wait()  # the other has left
                return gc.isenabled()
        met.wait()
        return False

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(enter, (True, False))] == [False, False]
    assert gc.isenabled()
