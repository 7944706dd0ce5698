"""ClickHouse: the trace sink, its migrations and its queries, over clickhouse-connect."""
