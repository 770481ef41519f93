"""How numbers and times are shown to people. What is unknown is a dash, never 0."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

UNKNOWN = "\u2013"


def count(number: int | Decimal | None) -> str:
    """Return 1,234, 12.3k, 123k or 1.2M."""
    if number is None:
        return UNKNOWN
    if number < 10_000:
        return f"{number:,.0f}"
    value = Decimal(number)
    for unit in ("k", "M", "G", "T"):
        value /= 1000
        # Not 1000k, which is what 999,999 rounds to.
        if value < Decimal("99.95"):
            return f"{value:.1f}{unit}"
        if value < Decimal("999.5"):
            return f"{value:.0f}{unit}"
    return f"{Decimal(number):.1e}"


def rate(number: float) -> str:
    """Return how many of something there are in a unit of time: 0.0021, 4.2 or 1,234."""
    if number >= 99.95:
        return count(round(number))
    return f"{number:.1f}" if number >= 0.95 or not number else f"{Decimal(f'{number:.2g}'):f}"


def milliseconds(duration: float | None) -> str:
    """Return 245 ms, 1.8 s, 3.5 min, 2.0 h or 12 days."""
    if duration is None:
        return UNKNOWN
    if duration < 999.5:
        return f"{duration:.0f} ms"
    for unit, size, most in (("s", 1000, 59.95), ("min", 60_000, 59.95), ("h", 3_600_000, 47.95)):
        if duration / size < most:
            return f"{duration / size:.1f} {unit}"
    return f"{count(round(duration / 86_400_000))} days"


def dollars(cost: Decimal | float | None) -> str:
    """Return $12.40, $0.0048 or $0.00: two decimals, or two digits if it is less than ten cents."""
    if cost is None:
        return UNKNOWN
    cost = Decimal(str(cost))
    if cost >= 10_000:
        return f"${count(cost)}"
    if not cost or cost >= Decimal("0.0995"):
        return f"${cost:,.2f}"
    if cost < Decimal("0.000001"):
        return "<$0.000001"
    return f"${cost.quantize(Decimal(1).scaleb(cost.adjusted() - 1)):f}"


def cost(row: Mapping[str, Any]) -> str:
    """Return the cost of an AI generation: $0.0048, or ≈$0.0048 if it is computed from tokens and prices."""
    return ("\u2248" if row["cost_source"] == "computed" else "") + dollars(row["cost_usd"])


def percent(part: int, whole: int) -> str:
    """Return 5.7% or 43%, or a dash for a share of nothing."""
    if not whole:
        return UNKNOWN
    share = 100 * part / whole
    return f"{share:.0f}%" if share >= 9.95 or not part else f"{share:.1f}%"


def ago(moment: datetime | None, now: datetime) -> str:
    """Return 12 s ago, 3 min ago, 5 h ago or 2 days ago; "in 3 min" of a moment that a wrong clock gave."""
    if moment is None:
        return UNKNOWN
    seconds = (now - moment).total_seconds()
    distance = abs(seconds)
    for unit, size, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if distance < most * size:
            text = f"{distance // size:.0f} {unit}"
            break
    else:
        text = f"{count(int(distance // 86400))} days"
    return f"{text} ago" if seconds >= 0 else f"in {text}"
