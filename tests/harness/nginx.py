"""nginx as a reverse proxy with one worker and keep-alive: the practical limit of one hop, and a load balancer."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from harness.servers import free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG: Final = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 0; client_body_buffer_size 16m; proxy_buffering {buffering};
  upstream provider {{ {servers} keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""


def nginx_program() -> str | None:
    """Return the path of nginx, which is often not on the PATH; None if it is not installed."""
    found = [path for path in ("/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/bin/nginx") if Path(path).exists()]
    return found[0] if found else None


@contextmanager
def nginx(*upstreams: str, buffering: bool = True) -> Iterator[tuple[str, int]]:
    """Run nginx in front of base URLs; yield its base URL and process id. Unbuffered, it passes events at once.

    A server that refuses a connection is tried again for the next request.
    """
    with tempfile.TemporaryDirectory(prefix="ibex-nginx-") as folder:
        port = free_port()
        parts = urlsplit(upstreams[0])
        servers = "".join(f"server {urlsplit(upstream).netloc} max_fails=0; " for upstream in upstreams)
        config = Path(folder) / "nginx.conf"
        settings = {"folder": folder, "port": port, "servers": servers, "buffering": "on" if buffering else "off"}
        config.write_text(_CONFIG.format(**settings))
        with listening([str(nginx_program()), "-p", folder, "-c", str(config)], port) as pid:
            yield f"http://127.0.0.1:{port}{parts.path}", pid
