"""Python's garbage collector, in a process that does nothing but serve."""

import gc

THRESHOLD_CONTAINERS = 10_000
"""Containers that are allocated and not freed before a collection starts; Python's default is 700, or 2,000."""


def tune_gc() -> None:
    """Exempt what is loaded from garbage collection, and collect less often. Call it in each worker, after loading.

    A payload is a tree, which is freed without the garbage collector; but parsing a large one triggers a collection,
    now and then one of the whole process. A host that serves other things too may want its own settings, so
    `create_app()` does not call this.
    """
    gc.freeze()
    gc.set_threshold(THRESHOLD_CONTAINERS)
