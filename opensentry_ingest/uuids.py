"""Version 7 UUIDs, which grow with time. Python's own `uuid` makes them from 3.14 on."""

import secrets
import time


def uuid7() -> str:
    """Return a new version 7 UUID (RFC 9562, section 5.7): milliseconds of Unix time, then 74 random bits."""
    random = secrets.randbits(74)
    value = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | (random >> 62) << 64 | 2 << 62 | random & (1 << 62) - 1
    return written(f"{value:032x}")


def written(digits: str) -> str:
    """Return a UUID as it is usually written, given its 32 hexadecimal digits."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
