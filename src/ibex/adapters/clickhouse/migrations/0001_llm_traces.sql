-- One row a request (spec 10). Nothing is nullable: 0, the empty text and the nil UUID say "none" (ADR 0007).
-- The deduplication window makes a batch that is written again under its insert_deduplication_token count once.
CREATE TABLE IF NOT EXISTS {database:Identifier}.llm_traces
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
ENGINE = MergeTree
PARTITION BY toYYYYMM(requested_at)
ORDER BY (org_id, agent_id, requested_at)
TTL toDate(requested_at) + toIntervalDay(90)
SETTINGS non_replicated_deduplication_window = 10000;
