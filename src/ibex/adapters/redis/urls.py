"""Redis URLs, and the redis-py connections that they describe.

| URL | server |
|---|---|
| ``redis://[user:password@]host[:port][/db]`` | one server |
| ``unix://[user:password@]/path[?db=…]`` | one server, by a Unix socket |
| ``redis+sentinel://[user:password@]host:port,…/service[/db][?sentinel_username=…&sentinel_password=…]`` | a primary |
| ``redis+cluster://[user:password@]host:port,…`` | a Redis Cluster |

``rediss`` instead of ``redis`` means TLS, with redis-py's options ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile`` …
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from redis.asyncio.connection import AbstractConnection, RedisSSLContext
    from redis.credentials import CredentialProvider

_MALFORMED: Final = "the Redis URL is malformed; check its port, its database and its options"
_PORTS: Final = {"cluster": 6379, "sentinel": 26379}
_TLS_OPTION: Final = "ssl_"
_CERTIFICATE_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SENTINEL_OPTION: Final = "sentinel_"
_SENTINEL_TIMEOUT_S: Final = 0.3
"""Short enough to ask another Sentinel if one hangs, within the connect timeout of 1 s."""
_COMMON_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,  # RESP2 has no push messages, and needs no HELLO, which requires a permission
    "driver_info": None,  # no CLIENT SETINFO
    "socket_timeout": None,  # the callers set the timeouts
    "socket_connect_timeout": None,
}


class Topology(Enum):
    """How the servers behind a URL are deployed."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed Redis URL. The repr shows no password."""

    topology: Topology
    nodes: tuple[tuple[str, int], ...]
    """Host and port of the server, the Sentinels, or some nodes of the Cluster. Empty for a Unix socket."""
    connection_class: type[AbstractConnection]
    options: dict[str, Any] = field(repr=False)
    tls: RedisSSLContext | None = field(repr=False, default=None)
    service: str = ""
    sentinel_options: dict[str, Any] = field(repr=False, default_factory=dict)

    @classmethod
    def parse(cls, url: str, credential_provider: CredentialProvider | None = None) -> RedisAddress:
        """Parse a URL. A ``credential_provider`` replaces its user and password.

        Reads certificates from disk, once. Raises ``ValueError`` for any other URL than the ones above, for an unknown
        option, and for certificates that cannot be read. The message contains no password.
        """
        scheme, _, topology = url.partition("://")[0].partition("+")
        if not topology:
            options = _parsed(url)
            host, port = options.pop("host", "localhost"), options.pop("port", 6379)
            nodes: tuple[tuple[Any, Any], ...] = () if "path" in options else ((host, port),)
            return cls._checked(Topology.STANDALONE, nodes, options, credential_provider)
        if topology not in _PORTS or scheme not in {"redis", "rediss"}:
            raise ValueError(
                "a Redis URL must start with redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
                "redis+cluster:// or rediss+cluster://"
            )
        of_first_host, hosts = _with_first_host(url)
        parts = _split(of_first_host)
        nodes, service, database = _nodes(hosts, _PORTS[topology]), "", parts.path.strip("/")
        if topology == "sentinel":
            service, _, database = database.partition("/")
            if not service:
                raise ValueError("a Redis URL with Sentinel must name the service: redis+sentinel://host:port/service")
        user, at, _ = parts.netloc.rpartition("@")
        one = f"{scheme}://{user}{at}host/{database}?{parts.query}"
        options = {name: value for name, value in _parsed(one).items() if name != "host"}
        return cls._checked(Topology(topology), nodes, options, credential_provider, unquote(service))

    @classmethod
    def _checked(
        cls,
        topology: Topology,
        nodes: tuple[tuple[str, int], ...],
        options: dict[str, Any],
        credential_provider: CredentialProvider | None,
        service: str = "",
    ) -> RedisAddress:
        kind = options.pop("connection_class", Connection)
        if issubclass(kind, SSLConnection):
            options.setdefault("ssl_min_version", ssl.TLSVersion.TLSv1_2)  # some builds of Python have no minimum
        known = {"username", "password", "db", "path"} | {name for name in options if _is_tls(kind, name)}
        sentinel = {
            name.removeprefix(_SENTINEL_OPTION): options.pop(name)
            for name in ("sentinel_username", "sentinel_password")
            if topology is Topology.SENTINEL and name in options
        }
        if unknown := set(options) - known:
            raise ValueError(f"unknown option {min(unknown)} in a {topology.value} Redis URL")
        if topology is Topology.CLUSTER and options.get("db"):
            raise ValueError(f"a Redis Cluster has only database 0, not {options['db']}")
        if credential_provider is not None:
            options = {name: value for name, value in options.items() if name not in {"username", "password"}}
            options["credential_provider"] = credential_provider
        return cls(topology, nodes, kind, options, _tls(kind, options), service, sentinel)

    @property
    def certificate_files(self) -> tuple[str, ...]:
        """The certificates and keys that the URL names, which are read when it is parsed."""
        return tuple(str(self.options[name]) for name in _CERTIFICATE_OPTIONS if self.options.get(name))

    def connection(self, host: str = "", port: int = 0) -> AbstractConnection:
        """Return a redis-py connection, not connected yet, to a host and port; by default to the URL's first node."""
        where: dict[str, Any] = {}
        if self.nodes:
            first_host, first_port = self.nodes[0]
            where = {"host": host or first_host, "port": port or first_port}
        connection = self.connection_class(**where, **self.options, **_COMMON_OPTIONS)
        if self.tls is not None and isinstance(connection, SSLConnection):
            connection.ssl_context = self.tls  # so that certificates are read once, not for each connection
        return connection

    def sentinel(self) -> Sentinel:
        """Return redis-py's Sentinel client for this URL, not connected yet."""
        options = {name: value for name, value in self.options.items() if name.startswith(_TLS_OPTION)}
        if self.tls is not None:
            options["ssl"] = True
        options |= self.sentinel_options | _COMMON_OPTIONS
        options |= {
            "socket_timeout": _SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }
        return Sentinel(self.nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py's


def _with_first_host(url: str) -> tuple[str, str]:
    """Return a URL with the first of its hosts only, and all its hosts.

    Newer versions of Python refuse to split a URL with an IPv6 address among several hosts.
    """
    before, separator, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, hosts = authority.rpartition("@")
    return f"{before}{separator}{user}{at}{hosts.partition(',')[0]}{rest[len(authority) :]}", hosts


def _nodes(hosts: str, default_port: int) -> tuple[tuple[str, int], ...]:
    nodes = []
    for part in hosts.split(","):
        one = _split(f"//{part}")
        if not one.hostname:
            raise ValueError("a Redis URL lists its hosts as host:port,host:port")
        nodes.append((one.hostname, one.port or default_port))
    return tuple(nodes)


def _parsed(url: str) -> dict[str, Any]:
    """Return redis-py's options for a URL. Raises ``ValueError`` without its message, which can quote the password."""
    try:
        return dict(parse_url(url))
    except ValueError:
        raise ValueError(_MALFORMED) from None


def _split(url: str) -> SplitResult:
    """Split a URL, and check its port. Raises ``ValueError`` without a part of the URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(_MALFORMED) from None
    return parts


def _is_tls(kind: type[AbstractConnection], name: str) -> bool:
    return issubclass(kind, SSLConnection) and name.startswith(_TLS_OPTION)


def _tls(kind: type[AbstractConnection], options: dict[str, Any]) -> RedisSSLContext | None:
    """Return redis-py's TLS context for these options, with the certificates read; None for a plaintext connection.

    Raises ``ValueError`` for options that redis-py does not accept, and for certificates that cannot be read.
    """
    if not issubclass(kind, SSLConnection):
        return None
    try:
        context = kind(**options).ssl_context
        context.get()
    except (TypeError, OSError, RedisError) as error:
        raise ValueError(f"invalid TLS options in the Redis URL ({type(error).__name__})") from None
    return context
