"""How often Python looks for garbage in cycles while a worker runs. Changes no memory that reference counts free."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

_YOUNG = 20_000


@contextmanager
def rare_collections() -> Generator[None]:
    """For a process that is a worker and nothing else.

    A worker holds thousands of suspended coroutines, which make no cycles of their own (eviction unties them): with
    the default of a collection every 700 objects a fifth of its time went into looking at them again and again.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
