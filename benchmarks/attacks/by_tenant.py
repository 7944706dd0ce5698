"""Attacks by one organization, with a token of its own, on the others."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from benchmarks.attacks.attacking import LOOPBACK, OPENS_A_SECOND, Pace, Target, flood, hold
from benchmarks.attacks.wire import CHAT, AnswerParser, bearer, chat_body, head, request

if TYPE_CHECKING:
    from benchmarks.attacks.tally import Tally
    from benchmarks.attacks.wire import Connection

WITHOUT_BODY: Final = 4_000
"""As many as two workers have slots for."""
SLOW_BODIES: Final = 300
HELD_BODIES: Final = 80
READERS: Final = 60
_SMALL_BUFFER: Final = 4_096
_READ_A_SECOND: Final = 300
_LARGE: Final = 10 << 20
_WRONG_MESSAGES: Final = 4_096
_FOREVER_S: Final = 3_600.0
_BODY: Final = chat_body("gpt-instant")


def _head(target: Target, length: int) -> bytes:
    headers = {**bearer(target.token), "content-type": "application/json", "content-length": str(length)}
    return head(target.host, CHAT, headers)


async def without_body(target: Target, tally: Tally) -> None:
    """Hold 4,000 requests whose body does not come: 2,000 for each worker."""

    async def script(connection: Connection) -> None:
        await connection.send(_head(target, 1_000))
        await connection.closed_within(_FOREVER_S)

    await hold(target.proxy, tally, WITHOUT_BODY, script)


async def slow_bodies(target: Target, tally: Tally) -> None:
    """Send 300 bodies of 10 MiB at 1 KiB/s each."""

    async def script(connection: Connection) -> None:
        await connection.send(_head(target, _LARGE))
        while not await connection.closed_within(1.0):
            await connection.send(b" " * 1_024)

    await hold(target.proxy, tally, SLOW_BODIES, script)


async def held_bodies(target: Target, tally: Tally) -> None:
    """Send 80 bodies of 10 MiB, all but the last byte."""
    rest = b" " * 65_536

    async def script(connection: Connection) -> None:
        await connection.send(_head(target, _LARGE))
        for _ in range(_LARGE // len(rest) - 1):
            await connection.send(rest)
        await connection.send(rest[:-1])
        await connection.closed_within(_FOREVER_S)

    await hold(target.proxy, tally, HELD_BODIES, script, opens_a_second=50)


async def slow_readers(target: Target, tally: Tally) -> None:
    """Ask for 60 long streams and read each at 300 bytes a second."""
    sent = request(target.host, CHAT, bearer(target.token), chat_body("gpt-stream", stream=True))
    pace = Pace(OPENS_A_SECOND)

    async def one() -> None:
        while True:
            await pace.turn()
            with socket.socket() as reader:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
                reader.settimeout(0)
                try:
                    await asyncio.wait_for(
                        asyncio.get_running_loop().sock_connect(reader, (LOOPBACK, target.proxy)), 10
                    )
                except OSError as error:
                    tally.not_opened[type(error).__name__] += 1
                else:
                    await _read_slowly(reader, sent, tally)
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(one())


async def _read_slowly(reader: socket.socket, sent: bytes, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    tally.open()
    began, status, parser = loop.time(), 0, AnswerParser()
    try:
        await loop.sock_sendall(reader, sent)
        while received := await loop.sock_recv(reader, _READ_A_SECOND):
            if not status and received.startswith(b"HTTP/1.1 "):
                status = int(received[9:12])
                tally.answers[str(status)] += 1
            if parser.feed(received):
                break  # the stream has ended, or the request was refused
            await asyncio.sleep(1.0)
    except ConnectionError:
        pass
    finally:
        tally.held -= 1
    tally.closed_by_server(status, loop.time() - began)


async def random_agents(target: Target, tally: Tally) -> None:
    """Send 1,000 requests a second, each with an agent id that does not exist."""

    def make() -> bytes:
        return request(target.host, CHAT, {**bearer(target.unbound_token), "x-ibex-agent-id": str(uuid4())}, _BODY)

    await flood(target.proxy, tally, make)


async def foreign_paths(target: Target, tally: Tally) -> None:
    """Send 1,000 requests a second to the path of another organization."""
    sent = request(target.host, f"/v1/orgs/{target.victim_org}/chat/completions", bearer(target.token), _BODY)
    await flood(target.proxy, tally, lambda: sent)


async def beyond_limit(target: Target, tally: Tally) -> None:
    """Send 1,000 requests a second with a limit of 60 a minute."""
    sent = request(target.host, CHAT, bearer(target.token), _BODY)
    await flood(target.proxy, tally, lambda: sent)


async def brackets(target: Target, tally: Tally) -> None:
    """Send bodies of 10 MiB of ``[],``, one after the other, on 2 connections."""
    begin, end = b'{"model":"gpt-instant","messages":[{"role":"user","content":"hi"}],"x":[', b"[]]}"
    pairs = b"[]," * ((_LARGE - len(begin) - len(end)) // 3)
    sent = request(target.host, CHAT, bearer(target.token), begin + pairs + end)
    await flood(target.proxy, tally, lambda: sent, a_second=2, connections=2)


async def wrong_bodies(target: Target, tally: Tally) -> None:
    """Send 20 bodies a second of 4,096 messages, all of them wrong, in 0.2 MB."""
    wrong = b",".join([b'{"role":"nobody","content":"a wrong message"}'] * _WRONG_MESSAGES)
    body = b'{"model":"gpt-instant","messages":[' + wrong + b"]}"
    sent = request(target.host, CHAT, bearer(target.token), body)
    await flood(target.proxy, tally, lambda: sent, a_second=20, connections=4)
