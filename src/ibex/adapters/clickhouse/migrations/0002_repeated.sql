-- How many requests a row stands for: more than one only for refusals beyond an organization's bound (ADR 0041).
ALTER TABLE {database:Identifier}.llm_traces ADD COLUMN IF NOT EXISTS repeated UInt32 DEFAULT 1;
