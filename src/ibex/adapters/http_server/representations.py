"""The bodies of responses that IBEX itself makes, as types. The OpenAPI document is generated from them."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - the framework reads the annotations when the program runs
from typing import Literal
from uuid import UUID  # noqa: TC003 - the same

import msgspec
from msgspec import UNSET, UnsetType

from ibex.domain.errors import ErrorCode, FieldCode  # noqa: TC001 - the same


class Model(msgspec.Struct):
    """A model that clients can request."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct):
    """The provider's models that are routed; the configured names if the provider does not return a list."""

    data: list[Model]
    object: Literal["list"] = "list"


class ProbeResult(msgspec.Struct):
    """The verified caller of a probe."""

    org_id: UUID
    agent_id: UUID
    status: Literal["ok"] = "ok"


class Liveness(msgspec.Struct):
    """The report of a process that is alive."""

    status: Literal["ok"] = "ok"
    checks: dict[str, str] = {}


class FieldProblem(msgspec.Struct):
    """A wrong field of a request: where, why, and what is allowed."""

    field: str
    code: FieldCode
    message: str


class ErrorContent(msgspec.Struct):
    """An error in OpenAI's shape, with more members."""

    code: str
    type: str
    message: str
    param: str | None
    request_id: UUID
    timestamp: datetime
    detail: str | UnsetType = UNSET
    ibex_code: ErrorCode | UnsetType = UNSET
    docs_url: str | UnsetType = UNSET
    field_errors: list[FieldProblem] | UnsetType = UNSET


class ErrorEnvelope(msgspec.Struct):
    """The body of every error response."""

    error: ErrorContent
