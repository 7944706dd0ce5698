import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_STATUS_UNSPECIFIED: _ClassVar[AgentStatus]
    AGENT_STATUS_ACTIVE: _ClassVar[AgentStatus]
    AGENT_STATUS_PAUSED: _ClassVar[AgentStatus]
    AGENT_STATUS_SUSPENDED: _ClassVar[AgentStatus]
    AGENT_STATUS_ARCHIVED: _ClassVar[AgentStatus]

class ChangeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_KIND_UNSPECIFIED: _ClassVar[ChangeKind]
    CHANGE_KIND_TOKENS: _ClassVar[ChangeKind]
    CHANGE_KIND_AGENTS: _ClassVar[ChangeKind]
    CHANGE_KIND_DIRECTIVES: _ClassVar[ChangeKind]
AGENT_STATUS_UNSPECIFIED: AgentStatus
AGENT_STATUS_ACTIVE: AgentStatus
AGENT_STATUS_PAUSED: AgentStatus
AGENT_STATUS_SUSPENDED: AgentStatus
AGENT_STATUS_ARCHIVED: AgentStatus
CHANGE_KIND_UNSPECIFIED: ChangeKind
CHANGE_KIND_TOKENS: ChangeKind
CHANGE_KIND_AGENTS: ChangeKind
CHANGE_KIND_DIRECTIVES: ChangeKind

class ValidateTokenRequest(_message.Message):
    __slots__ = ("access_token",)
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    def __init__(self, access_token: _Optional[str] = ...) -> None: ...

class ValidateTokenResponse(_message.Message):
    __slots__ = ("org_id", "permissions", "token_id", "user_id", "agent_id", "remaining", "rate_limit_rpm", "epoch")
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_RPM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    org_id: str
    permissions: int
    token_id: str
    user_id: str
    agent_id: str
    remaining: _duration_pb2.Duration
    rate_limit_rpm: int
    epoch: Epoch
    def __init__(self, org_id: _Optional[str] = ..., permissions: _Optional[int] = ..., token_id: _Optional[str] = ..., user_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rate_limit_rpm: _Optional[int] = ..., epoch: _Optional[_Union[Epoch, _Mapping]] = ...) -> None: ...

class Epoch(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: str
    def __init__(self, value: _Optional[str] = ...) -> None: ...

class ValidateAgentRequest(_message.Message):
    __slots__ = ("agent_id", "org_id")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    org_id: str
    def __init__(self, agent_id: _Optional[str] = ..., org_id: _Optional[str] = ...) -> None: ...

class ValidateAgentResponse(_message.Message):
    __slots__ = ("agent_id", "org_id", "status", "epoch")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    org_id: str
    status: AgentStatus
    epoch: Epoch
    def __init__(self, agent_id: _Optional[str] = ..., org_id: _Optional[str] = ..., status: _Optional[_Union[AgentStatus, str]] = ..., epoch: _Optional[_Union[Epoch, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("open", "ping")
    class Open(_message.Message):
        __slots__ = ("position",)
        POSITION_FIELD_NUMBER: _ClassVar[int]
        position: str
        def __init__(self, position: _Optional[str] = ...) -> None: ...
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    open: WatchRequest.Open
    ping: int
    def __init__(self, open: _Optional[_Union[WatchRequest.Open, _Mapping]] = ..., ping: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("first", "events", "pong", "source_unavailable")
    class First(_message.Message):
        __slots__ = ("position",)
        POSITION_FIELD_NUMBER: _ClassVar[int]
        position: str
        def __init__(self, position: _Optional[str] = ...) -> None: ...
    class Events(_message.Message):
        __slots__ = ("changes",)
        CHANGES_FIELD_NUMBER: _ClassVar[int]
        changes: _containers.RepeatedCompositeFieldContainer[Change]
        def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ...) -> None: ...
    class Pong(_message.Message):
        __slots__ = ("ping", "position")
        PING_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        ping: int
        position: str
        def __init__(self, ping: _Optional[int] = ..., position: _Optional[str] = ...) -> None: ...
    class SourceUnavailable(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    FIRST_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    SOURCE_UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    first: WatchResponse.First
    events: WatchResponse.Events
    pong: WatchResponse.Pong
    source_unavailable: WatchResponse.SourceUnavailable
    def __init__(self, first: _Optional[_Union[WatchResponse.First, _Mapping]] = ..., events: _Optional[_Union[WatchResponse.Events, _Mapping]] = ..., pong: _Optional[_Union[WatchResponse.Pong, _Mapping]] = ..., source_unavailable: _Optional[_Union[WatchResponse.SourceUnavailable, _Mapping]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("org_id", "kind", "live_token")
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LIVE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    org_id: str
    kind: ChangeKind
    live_token: str
    def __init__(self, org_id: _Optional[str] = ..., kind: _Optional[_Union[ChangeKind, str]] = ..., live_token: _Optional[str] = ...) -> None: ...

class TokenFilterRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: bytes
    limit: int
    def __init__(self, after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class TokenFilterResponse(_message.Message):
    __slots__ = ("count", "token_ids", "is_last")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    count: int
    token_ids: bytes
    is_last: bool
    def __init__(self, count: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., is_last: _Optional[bool] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("org_id", "name", "permissions", "user_id", "agent_id", "expires_at")
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    org_id: str
    name: str
    permissions: int
    user_id: str
    agent_id: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, org_id: _Optional[str] = ..., name: _Optional[str] = ..., permissions: _Optional[int] = ..., user_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token_id", "access_token")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    access_token: str
    def __init__(self, token_id: _Optional[str] = ..., access_token: _Optional[str] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("org_id", "token_id")
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    org_id: str
    token_id: str
    def __init__(self, org_id: _Optional[str] = ..., token_id: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ("org_id", "page_size", "page_token")
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    org_id: str
    page_size: int
    page_token: str
    def __init__(self, org_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens", "next_page_token")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    next_page_token: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("token_id", "org_id", "name", "permissions", "user_id", "agent_id", "created_at", "expires_at", "revoked_at")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    org_id: str
    name: str
    permissions: int
    user_id: str
    agent_id: str
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    revoked_at: _timestamp_pb2.Timestamp
    def __init__(self, token_id: _Optional[str] = ..., org_id: _Optional[str] = ..., name: _Optional[str] = ..., permissions: _Optional[int] = ..., user_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
