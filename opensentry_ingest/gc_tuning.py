"""Settings of Python's garbage collector for a process that only runs this service."""

import gc

THRESHOLD_CONTAINERS = 10_000
"""Container objects that may be allocated before a collection starts; Python's default is 700 or 2,000."""


def tune_gc() -> None:
    """Exempt the objects that exist now from garbage collection, and collect less often.

    Call it in each worker, after the application is loaded.

    A payload is a tree, so it is freed without the garbage collector. But parsing a large one triggers collections, and
    some of these scan the whole process. `create_app()` does not call this, because a process that runs other
    applications too may need other settings.
    """
    gc.freeze()
    gc.set_threshold(THRESHOLD_CONTAINERS)
