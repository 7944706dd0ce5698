"""ClickHouse: the trace sink, its migrations and queries (over clickhouse-connect), and the embedded engine (chdb)."""
