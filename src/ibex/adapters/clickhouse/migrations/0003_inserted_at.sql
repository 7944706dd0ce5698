-- The kind of request; empty for rows that an earlier version wrote, all of which are chat completions.
ALTER TABLE {database:Identifier}.llm_traces ADD COLUMN IF NOT EXISTS operation LowCardinality(String);
-- When the row was inserted, for following. A column's default is also what a row from before the column has, so that
-- now64() alone would make every old row a new one. Those have no operation: their end stands in for their insertion.
ALTER TABLE {database:Identifier}.llm_traces ADD COLUMN IF NOT EXISTS inserted_at DateTime64(6, 'UTC')
    DEFAULT if(operation = '', completed_at, now64(6, 'UTC'));
ALTER TABLE {database:Identifier}.llm_traces
    ADD INDEX IF NOT EXISTS inserted_at_range inserted_at TYPE minmax GRANULARITY 1;
