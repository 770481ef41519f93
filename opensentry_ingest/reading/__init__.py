"""Every query that shows what came in, for the commands and for the viewer; a module for each kind of thing.

The rules that hold here: a query filters on `received_at`, which prunes partitions, and not on `timestamp`, which is
the client's clock; none takes longer the more history there is, if it shows a period; and every value is a parameter.
"""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

Connection = psycopg.Connection[Any]


class Period(NamedTuple):
    """A time range: from `since`, up to but not including `until`."""

    since: datetime
    until: datetime
