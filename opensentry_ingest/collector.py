"""Python's garbage collector, in a process that does nothing but serve."""

import gc

THRESHOLD = 10_000
"""Containers that are made and not freed before the collector looks for cycles; Python begins at 700, or 2,000."""


def relax() -> None:
    """Have the collector leave alone what is loaded, and look for cycles less often. Call it when all is loaded.

    A payload is a tree, which is freed without the collector; but to parse a large one makes it look, and look at the
    whole process now and then. A host that serves other things too has a say in this, so `create_app()` does not.
    """
    gc.freeze()
    gc.set_threshold(THRESHOLD)
