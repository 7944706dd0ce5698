"""The system clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial


class SystemClock:
    """A ``Clock`` that reads the system clock. Its methods are C functions, as a request calls them about 20 times."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic_ns = staticmethod(time.monotonic_ns)
