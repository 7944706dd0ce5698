CREATE DATABASE IF NOT EXISTS {database:Identifier} ON CLUSTER 'main';

CREATE TABLE IF NOT EXISTS {database:Identifier}.schema_migrations ON CLUSTER 'main'
(version UInt32, name String, checksum String, applied_at DateTime64(6, 'UTC') DEFAULT now64(6))
ENGINE = ReplicatedMergeTree('/clickhouse/tables/main/ibex/schema_migrations', '{shard}-{replica}') ORDER BY version;

CREATE TABLE IF NOT EXISTS {database:Identifier}.llm_traces_local ON CLUSTER 'main'
(
    request_id           UUID,
    org_id               UUID,
    agent_id             UUID,
    session_id           UUID,
    checkpoint_id        UUID,
    model                LowCardinality(String),
    provider             LowCardinality(String),
    is_streaming         Bool,
    input_tokens         UInt32,
    output_tokens        UInt32,
    total_tokens         UInt32,
    cached_tokens        UInt32,
    reasoning_tokens     UInt32,
    auth_ms              Float64,
    rate_limit_ms        Float64,
    directive_ms         Float64,
    inject_ms            Float64,
    provider_ttfb_ms     Float64,
    proxy_overhead_ms    Float64,
    total_latency_ms     Float64,
    status_code          UInt16,
    is_complete          Bool,
    error_code           LowCardinality(String),
    finish_reason        LowCardinality(String),
    attempts             UInt32,
    directive_version_id UUID,
    directive_hash       LowCardinality(String),
    auth_cache           LowCardinality(String),
    requested_at         DateTime64(6, 'UTC'),
    completed_at         DateTime64(6, 'UTC'),
    emitter_id           UUID,
    emitter_seq          UInt64
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/main/{shard}/ibex/llm_traces_local', '{replica}')
PARTITION BY toYYYYMM(requested_at)
ORDER BY (org_id, agent_id, requested_at)
TTL toDate(requested_at) + toIntervalDay(90)
SETTINGS replicated_deduplication_window = 72000, replicated_deduplication_window_seconds = 3600, replicated_deduplication_window_for_async_inserts = 72000, replicated_deduplication_window_seconds_for_async_inserts = 3600;

CREATE TABLE IF NOT EXISTS `ibex`.llm_traces ON CLUSTER 'main'
AS `ibex`.llm_traces_local
ENGINE = Distributed('main', 'ibex', 'llm_traces_local', sipHash64(emitter_id));

ALTER TABLE {database:Identifier}.llm_traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS repeated UInt32 DEFAULT 1;

ALTER TABLE {database:Identifier}.llm_traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS repeated UInt32 DEFAULT 1;

ALTER TABLE {database:Identifier}.llm_traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS operation LowCardinality(String);

ALTER TABLE {database:Identifier}.llm_traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS operation LowCardinality(String);

ALTER TABLE {database:Identifier}.llm_traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS inserted_at DateTime64(6, 'UTC')
    DEFAULT if(operation = '', completed_at, now64(6, 'UTC'));

ALTER TABLE {database:Identifier}.llm_traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS inserted_at DateTime64(6, 'UTC')
    DEFAULT if(operation = '', completed_at, now64(6, 'UTC'));

ALTER TABLE {database:Identifier}.llm_traces_local ON CLUSTER 'main' ADD INDEX IF NOT EXISTS inserted_at_range inserted_at TYPE minmax GRANULARITY 1;

ALTER TABLE {database:Identifier}.llm_traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS token_id UUID;

ALTER TABLE {database:Identifier}.llm_traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS token_id UUID;

ALTER TABLE {database:Identifier}.llm_traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS user_id UUID;

ALTER TABLE {database:Identifier}.llm_traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS user_id UUID;

