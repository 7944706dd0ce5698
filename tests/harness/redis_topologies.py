"""Redis with Sentinel and Redis Cluster, as real processes on the loopback interface."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from harness.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

SERVICE = "ibex-primary"
SHARDS = 3
_BUS_OFFSET = 10_000
_FIRST_GIVEN = 32_768
_WAIT_S = 30.0
_POLL_S = 0.02


def until(told: Callable[[], T]) -> T:
    """Poll until the function returns a true value, and return it; errors of unreachable servers are ignored."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        with suppress(RedisError, LookupError):
            found = told()
            if found:
                return found
        if time.monotonic() > deadline:
            raise AssertionError("the servers do not agree in time")
        time.sleep(_POLL_S)  # the servers do not announce that their view has changed


class SentinelScene:
    """A primary with a replica, and three Sentinels that watch them."""

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer], folder: Path) -> None:
        self.servers = servers
        self.sentinels = sentinels
        self._folder = folder

    @property
    def url(self) -> str:
        """The URL with the Sentinels and the service name."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def primary(self) -> RedisServer:
        """Return the primary, as the Sentinels report it."""
        address = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(address[1]))

    def start(self, server: RedisServer, *options: str) -> None:
        """Start a server if it does not run."""
        server.start(*_files(server, self._folder), *options)

    def settle(self) -> None:
        """Restart killed servers, and return once there are a primary and a replica in sync."""
        for server in self.servers:
            self.start(server)
        primary = self.primary()
        for server in self.servers:
            if server is not primary:
                server.client().replicaof("127.0.0.1", str(primary.port))  # as Sentinel does ten seconds later
        until(lambda: self.primary().client().info("replication")["connected_slaves"] == 1)
        until(lambda: self._seen_by_all()["num-slaves"] == b"1" and self._seen_by_all()["flags"] == b"master")

    def fail_over(self) -> None:
        """Have the Sentinels swap primary and replica, both of which stay up, once the replica is suitable."""
        until(lambda: self.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE))

    def _seen_by_all(self) -> dict[str, bytes]:
        """Return the last Sentinel's view of the primary, if all three know each other."""
        view: dict[str, bytes] = {}
        for sentinel in self.sentinels:
            reply = sentinel.command("SENTINEL", "MASTER", SERVICE)
            if isinstance(reply, dict):
                reply = [part for pair in reply.items() for part in pair]
            texts = [part if isinstance(part, bytes) else str(part).encode() for part in reply]
            view = {name.decode(): value for name, value in zip(texts[::2], texts[1::2], strict=True)}
            if view["num-other-sentinels"] != b"2":
                raise LookupError
        return view

    @classmethod
    @contextmanager
    def running(cls, program: Path, folder: Path) -> Iterator[SentinelScene]:
        """Start all servers; stop them at the end."""
        with ExitStack() as stack:
            made = [RedisServer.on_free_port(program) for _ in range(5)]
            for server in made:
                stack.callback(server.kill)
            servers, sentinels = made[:2], made[2:]
            scene = cls(servers, sentinels, folder)
            scene.start(servers[0])
            scene.start(servers[1], "--replicaof", "127.0.0.1", str(servers[0].port))
            for sentinel in sentinels:
                file = folder / f"sentinel-{sentinel.port}.conf"
                file.write_text(
                    f"dir {folder}\n"
                    f"sentinel monitor {SERVICE} 127.0.0.1 {servers[0].port} 2\n"
                    f"sentinel down-after-milliseconds {SERVICE} 500\n"
                    f"sentinel failover-timeout {SERVICE} 2000\n"
                )
                sentinel.launch(str(file), "--sentinel")
            scene.settle()
            yield scene


class ClusterScene:
    """A Redis Cluster of three primaries, each with a replica."""

    def __init__(self, servers: list[RedisServer], folder: Path) -> None:
        self.servers = servers
        self._folder = folder

    @property
    def url(self) -> str:
        """The URL with two of the nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def primary_of(self, tag: object) -> RedisServer:
        """Return the primary of a hash tag, once all running nodes agree on it."""
        slot = key_slot(str(tag).encode())
        found = until(lambda: self._agreed_primary(slot))
        assert found is not None
        return found

    def _agreed_primary(self, slot: int) -> RedisServer | None:
        seen = set()
        for server in self.servers:
            if server.process is None:
                continue
            ranges: Any = server.command("CLUSTER SLOTS")
            if isinstance(ranges, dict):
                ranges = [[first, last, [None, value["primary"][1]]] for (first, last), value in ranges.items()]
            seen |= {one[2][1] for one in ranges if one[0] <= slot <= one[1]}
        alive = [server for server in self.servers if server.process is not None and server.port in seen]
        return alive[0] if len(seen) == 1 and alive else None

    @contextmanager
    def without_promotions(self) -> Iterator[None]:
        """Prevent replicas from replacing a primary during the block."""
        self._forbid_promotions("yes")
        try:
            yield
        finally:
            self._forbid_promotions("no")

    def _forbid_promotions(self, forbid: str) -> None:
        for server in self.servers:
            if server.process is not None:
                server.client().config_set("cluster-replica-no-failover", forbid)

    def start(self, server: RedisServer) -> None:
        """Start a node with the state in which it was killed."""
        server.start(
            *("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{server.port}.conf"),
            *("--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"),
            *_files(server, self._folder),
        )

    def settle(self) -> None:
        """Restart killed nodes, and return once each primary has its replica."""
        for server in self.servers:
            self.start(server)
        until(self._is_settled)

    def _is_settled(self) -> bool:
        for server in self.servers:
            client = server.client()
            state: Any = server.command("CLUSTER INFO")
            text = state if isinstance(state, str | bytes) else "".join(f"{k}:{v}\n" for k, v in state.items())
            text = text.decode() if isinstance(text, bytes) else text
            if "cluster_state:ok" not in text or f"cluster_known_nodes:{len(self.servers)}" not in text:
                return False
            replication = client.info("replication")
            if replication["role"] == "master" and replication["connected_slaves"] != 1:
                return False
        return True

    @classmethod
    @contextmanager
    def running(cls, program: Path, folder: Path) -> Iterator[ClusterScene]:
        """Start all nodes; stop them at the end."""
        with ExitStack() as stack:
            servers = [_node(program) for _ in range(2 * SHARDS)]
            scene = cls(servers, folder)
            for server in servers:
                stack.callback(server.kill)
                scene.start(server)
            for server in servers[1:]:
                servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port)
            bounds = [n * REDIS_CLUSTER_HASH_SLOTS // SHARDS for n in range(SHARDS + 1)]
            for n, server in enumerate(servers[:SHARDS]):
                server.command("CLUSTER", "ADDSLOTS", *range(bounds[n], bounds[n + 1]))
            for n, server in enumerate(servers[SHARDS:]):
                _follow(server, servers[n])
            scene.settle()
            yield scene


def _files(server: RedisServer, folder: Path) -> list[str]:
    """Return the options for the files of a server that has replicas or is one."""
    syncs = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--rdb-del-sync-files", "yes"]
    return ["--dir", str(folder), "--dbfilename", f"{server.port}.rdb", *syncs]


def _node(program: Path) -> RedisServer:
    """Return a node whose cluster bus port is outside the range of ephemeral ports."""
    while True:
        server = RedisServer.on_free_port(program)
        if server.port + _BUS_OFFSET < _FIRST_GIVEN:
            return server


def _follow(replica: RedisServer, primary: RedisServer) -> None:
    name: Any = primary.command("CLUSTER", "MYID")

    def followed() -> bool:
        return bool(replica.command("CLUSTER", "REPLICATE", name))

    until(followed)  # as soon as the nodes have heard of each other


@pytest.fixture(scope="session")
def sentinels(redis_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelScene]:
    """Redis with Sentinels, for all tests."""
    with SentinelScene.running(redis_program, tmp_path_factory.mktemp("sentinel")) as scene:
        yield scene


@pytest.fixture(scope="session")
def cluster(redis_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterScene]:
    """A Redis Cluster, for all tests."""
    with ClusterScene.running(redis_program, tmp_path_factory.mktemp("cluster")) as scene:
        yield scene
