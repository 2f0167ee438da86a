"""Times in the form of ISO 8601."""

import time
from functools import lru_cache


@lru_cache
def iso_time(seconds: int) -> str:
    """Return seconds since 1970 as a time in UTC, as 2026-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
