-- Whose request it was: the token, and the user whose token it is; nil for rows of before, and where there is none.
ALTER TABLE {database:Identifier}.llm_traces ADD COLUMN IF NOT EXISTS token_id UUID;
ALTER TABLE {database:Identifier}.llm_traces ADD COLUMN IF NOT EXISTS user_id UUID;
