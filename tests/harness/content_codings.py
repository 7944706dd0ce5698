"""The content codings that tests use."""

from __future__ import annotations

import pytest

from ibex.adapters.clickhouse.content_coding import choose

LZ4 = pytest.param("lz4", marks=pytest.mark.skipif(not choose("lz4"), reason="lz4 is not installed"))
"""clickhouse-connect does not install it for Python 3.14 and later."""
FRAMED = (LZ4, "zstd", "gzip")
CODINGS = (*FRAMED, "deflate")
