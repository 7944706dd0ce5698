"""The machine's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial


class SystemClock:
    """A ``Clock`` that reads the machine's; its methods are C's own, since a request reads it some twenty times."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic_ns = staticmethod(time.monotonic_ns)
