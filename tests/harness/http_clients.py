"""The rows of the transport table: one ASGI application that forwards a request, over several HTTP clients.

``python -m harness.http_clients CLIENT PORT UPSTREAM`` serves one of them with one process. All use the same server,
event loop and garbage collection settings as IBEX.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Forward = Callable[[bytes], Awaitable[bytes]]

CONNECTIONS = 200
_JSON = {"content-type": "application/json", "accept-encoding": "identity"}


async def no_upstream(_upstream: str) -> Forward:
    """Answer without an upstream request, to measure the cost of the server alone."""
    answer = b'{"id":"chatcmpl-none","choices":[]}' + b" " * 400

    async def forward(_body: bytes) -> bytes:
        return answer

    return forward


def _over_transport(transport: httpx.AsyncBaseTransport, upstream: str) -> Forward:
    url = httpx.URL(upstream)
    fields = [(b"host", url.netloc), *((name.encode(), value.encode()) for name, value in _JSON.items())]
    timeouts = {"connect": 5.0, "read": None, "write": None, "pool": 5.0}

    async def forward(body: bytes) -> bytes:
        request = httpx.Request(
            "POST",
            url,
            headers=[*fields, (b"content-length", b"%d" % len(body))],
            stream=httpx.ByteStream(body),
            extensions={"timeout": timeouts},
        )
        response = await transport.handle_async_request(request)
        stream: Any = response.stream
        try:
            return b"".join([chunk async for chunk in stream])
        finally:
            await stream.aclose()

    return forward


def _over_client(client: Any, upstream: str) -> Forward:
    async def forward(body: bytes) -> bytes:
        response = await client.post(upstream, content=body, headers=_JSON)
        return bytes(response.content)

    return forward


async def ibex(upstream: str) -> Forward:
    """IBEX's own HTTP client, as the provider's adapter calls it."""
    from ibex.adapters.http_client.transport import default_transport  # noqa: PLC0415
    from ibex.adapters.http_client.upstream import upstream_over  # noqa: PLC0415

    url = httpx.URL(upstream)
    root, _, path = str(url).rpartition("/")
    fields = [(b"host", url.netloc), *((name.encode(), value.encode()) for name, value in _JSON.items())]
    over = upstream_over(default_transport(CONNECTIONS), httpx.URL(f"{root}/"), fields, 5.0)

    async def forward(body: bytes) -> bytes:
        by = asyncio.get_running_loop().time() + 60
        response = await over.send("POST", path, body, stream=False, by=by, fresh=False)
        try:
            return b"".join([chunk async for chunk in response])
        finally:
            await response.aclose()

    return forward


async def httpx_transport(upstream: str) -> Forward:
    """Httpx's default transport, called directly."""
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    return _over_transport(httpx.AsyncHTTPTransport(limits=limits), upstream)


async def httpx_client(upstream: str) -> Forward:
    """Use httpx through its client, as most programs do."""
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    return _over_client(httpx.AsyncClient(limits=limits), upstream)


async def httpx2_client(upstream: str) -> Forward:
    """The httpx that OpenAI's SDK uses."""
    httpx2 = importlib.import_module("httpx2")
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    return _over_client(httpx2.AsyncClient(limits=limits), upstream)


async def httpx_aiohttp(upstream: str) -> Forward:
    """Use httpx over aiohttp's connections."""
    module = importlib.import_module("httpx_aiohttp")
    return _over_transport(module.AiohttpTransport(), upstream)


async def aiohttp(upstream: str) -> Forward:
    """Aiohttp's client."""
    module = importlib.import_module("aiohttp")
    session = module.ClientSession(connector=module.TCPConnector(limit=CONNECTIONS), auto_decompress=False)

    async def forward(body: bytes) -> bytes:
        async with session.post(upstream, data=body, headers=_JSON) as response:
            return bytes(await response.read())

    return forward


async def pyreqwest(upstream: str) -> Forward:
    """reqwest, in Rust."""
    module = importlib.import_module("pyreqwest.client")
    client = module.ClientBuilder().build()

    async def forward(body: bytes) -> bytes:
        response = await client.post(upstream).headers(_JSON).body_bytes(body).build().send()
        return bytes(await response.bytes())

    return forward


async def niquests(upstream: str) -> Forward:
    """The asynchronous session of niquests."""
    module = importlib.import_module("niquests")
    session = module.AsyncSession(pool_connections=10, pool_maxsize=CONNECTIONS)

    async def forward(body: bytes) -> bytes:
        response = await session.post(upstream, data=body, headers=_JSON)
        return bytes(response.content)

    return forward


async def aiosonic(upstream: str) -> Forward:
    """Aiosonic's client."""
    module = importlib.import_module("aiosonic")
    pools = importlib.import_module("aiosonic.pools")
    connectors = importlib.import_module("aiosonic.connectors")
    config = pools.PoolConfig(size=CONNECTIONS)
    client = module.HTTPClient(connectors.TCPConnector(pool_configs={":default": config}))

    async def forward(body: bytes) -> bytes:
        response = await client.post(upstream, data=body, headers=_JSON)
        return bytes(await response.content())

    return forward


async def curl_cffi(upstream: str) -> Forward:
    """Libcurl's multi interface."""
    module = importlib.import_module("curl_cffi")
    session = module.AsyncSession(max_clients=CONNECTIONS)

    async def forward(body: bytes) -> bytes:
        response = await session.post(upstream, data=body, headers=_JSON)
        return bytes(response.content)

    return forward


async def blacksheep(upstream: str) -> Forward:
    """The client of the blacksheep framework, in Cython."""
    module = importlib.import_module("blacksheep.client")
    content = importlib.import_module("blacksheep").Content
    session = module.ClientSession()

    async def forward(body: bytes) -> bytes:
        response = await session.post(upstream, content(b"application/json", body))
        return bytes(await response.read())

    return forward


CLIENTS: dict[str, Callable[[str], Awaitable[Forward]]] = {
    "no upstream": no_upstream,
    "IBEX's HTTP client": ibex,
    "httpx.AsyncHTTPTransport": httpx_transport,
    "httpx.AsyncClient": httpx_client,
    "httpx2.AsyncClient": httpx2_client,
    "httpx-aiohttp": httpx_aiohttp,
    "aiohttp": aiohttp,
    "pyreqwest": pyreqwest,
    "niquests": niquests,
    "aiosonic": aiosonic,
    "curl_cffi": curl_cffi,
    "blacksheep": blacksheep,
}


class Forwarder:
    """The ASGI application. The client is made by the first request, in the server's event loop."""

    def __init__(self, make: Callable[[str], Awaitable[Forward]], upstream: str) -> None:
        self._make = make
        self._upstream = upstream
        self._forward: Forward | None = None
        self._making = asyncio.Lock()

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        """Forward one request and return the upstream's response."""
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        async with self._making:
            if self._forward is None:
                self._forward = await self._make(self._upstream)
        answer = await self._forward(body)
        length = (b"content-length", b"%d" % len(answer))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json"), length],
            }
        )
        await send({"type": "http.response.body", "body": answer})


def main() -> None:
    """Serve until SIGTERM."""
    client, port, upstream = sys.argv[1:]
    app = Forwarder(CLIENTS[client], upstream)
    config = uvicorn.Config(
        app, port=int(port), http="httptools", ws="none", lifespan="off", access_log=False, log_level="error"
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
