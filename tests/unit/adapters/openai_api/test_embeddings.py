"""Tests of the operation for embeddings, and of the reader of responses that pass unchanged."""

from __future__ import annotations

import hashlib

import pytest

from ibex.adapters.openai_api.embeddings import Embeddings
from ibex.domain.errors import ValidationError
from ibex.domain.proxying.operation import NO_TARGET, MalformedResponseError
from ibex.domain.proxying.provider import Dialect

DIALECT = Dialect()


async def test_a_request_keeps_its_bytes() -> None:
    """The proxy parses only the model. The hash covers the input."""
    body = b'{ "input": ["a", "b"], "model":"text-embedding-3-small","encoding_format" : "base64","dimensions":2 }'

    request = await Embeddings().parse(body, NO_TARGET)

    assert (request.model, request.body, request.is_streaming) == ("text-embedding-3-small", body, False)
    assert request.content_hash() == hashlib.sha256(b'["a", "b"]').hexdigest()
    assert "base64" not in repr(request)


@pytest.mark.parametrize("body", [b'{"input":"a"}', b'{"model":"","input":"a"}', b'{"model":"a","Model":"b"}'])
async def test_a_model_is_required(body: bytes) -> None:
    """A request without a model, or with two, is refused."""
    with pytest.raises(ValidationError):
        await Embeddings().parse(body, NO_TARGET)


async def test_the_response_is_forwarded_unchanged() -> None:
    """The reader records the model and the usage."""
    reader = (await Embeddings().parse(b'{"model":"m"}', NO_TARGET)).response_reader(DIALECT)
    body = b'{"data":[{"embedding":"AAAA"}],"model":"m-2","usage":{"prompt_tokens":8,"total_tokens":8}}'

    assert reader.read_body(body) == body
    summary = reader.summary()
    assert (summary.model, summary.usage.input_tokens, summary.usage.total_tokens) == ("m-2", 8, 8)
    assert (summary.completion_hash, summary.response_id) == (None, None)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error":{"message":"x"}}', b"\xff"])
async def test_a_malformed_response_is_refused(body: bytes) -> None:
    """The client does not receive it."""
    reader = (await Embeddings().parse(b'{"model":"m"}', NO_TARGET)).response_reader(DIALECT)
    with pytest.raises(MalformedResponseError):
        reader.read_body(body)
