"""The peers as `make bench` runs them: each at its own best documented setting for one machine, without a record.

Their installation and command come from tests/peers/peers.toml; this module has what differs for the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from peers.peers import KEY, PEERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peers.peers import Peer

NGINX: Final = "nginx"
ENVOY: Final = "Envoy"
FERRO: Final = "Ferro"
PORTKEY: Final = "Portkey"
LITELLM: Final = "LiteLLM"
PEERS_IN_ORDER: Final = (NGINX, ENVOY, FERRO, PORTKEY, LITELLM)
FLOORS: Final = (NGINX, ENVOY)
"""These only pass bytes on, so they keep up with every rate."""
NGINX_SETTINGS: Final = "1 worker; keep-alive to the provider; no access log; responses unbuffered"
MODELS: Final = ("gpt-instant", "gpt-paced", "gpt-stream")

_FERRO_CONFIG: Final = (
    f"{{strategy: {{mode: single}}, targets: [{{virtual_key: openai, models: [{', '.join(MODELS)}]}}]}}"
)
_LITELLM_CONFIG: Final = (
    "model_list:\n"
    + "".join(
        f"- {{model_name: {name}, litellm_params: {{model: openai/{name}, api_base: '{{upstream}}', api_key: none,"
        " rust: true}}\n"
        for name in MODELS
    )
    + f"general_settings: {{master_key: {KEY}}}\n"
)
_ENVOY_CONFIG: Final = """
stats_config: {stats_matcher: {reject_all: true}}
static_resources:
  listeners:
  - name: clients
    address: {socket_address: {address: 127.0.0.1, port_value: {port}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          generate_request_id: false
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: provider, timeout: 0s}}]}
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              dynamic_stats: false
  clusters:
  - name: provider
    type: STATIC
    circuit_breakers:
      thresholds: [{max_connections: 1000000, max_pending_requests: 1000000, max_requests: 1000000}]
    load_assignment:
      cluster_name: provider
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: PROVIDER}}}]}]
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A peer in the benchmark. ``settings`` says for the report how it runs; the rest adds to its entry."""

    name: str
    key: str
    settings: str
    arguments: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_installed(self) -> bool:
        """Whether `make bench-peers` has installed it."""
        return PEERS[self.key].is_installed

    @property
    def package(self) -> str:
        """Its package and version."""
        return PEERS[self.key].package

    def peer(self, provider: str) -> Peer:
        """Return the peer with the configuration of the benchmark, in front of a provider's base URL."""
        parts = urlsplit(provider)
        address = f"{{address: {parts.hostname}, port_value: {parts.port}}}"
        files = {name: text.replace("PROVIDER", address) for name, text in self.files.items()}
        entry = PEERS[self.key]
        return replace(
            entry,
            command=f"{entry.command} {self.arguments}",
            files={**entry.files, **files},
            environ={**entry.environ, **self.environ},
        )

    def headers(self, provider: str) -> dict[str, str]:
        """Return the headers of a client's request."""
        headers = {"authorization": f"Bearer {KEY}"}
        if self.name == PORTKEY:
            headers |= {"x-portkey-provider": "openai", "x-portkey-custom-host": provider}
        return headers


GATEWAYS: Final = (
    Gateway(
        ENVOY,
        "envoy",
        "--concurrency 1, as nginx's one worker; circuit breakers, request ids and statistics off, as its advice for"
        " benchmarks says; no ext_authz, no access log",
        files={"envoy.yaml": _ENVOY_CONFIG},
    ),
    Gateway(
        FERRO,
        "ferrogw",
        "as in its own benchmark: strategy single, no plugins, LOG_LEVEL=error; no rate limit (RATE_LIMIT_RPS=0); its"
        " threads use all cores; one key; no record",
        files={"config.yaml": _FERRO_CONFIG},
    ),
    Gateway(
        PORTKEY,
        "portkey",
        "NODE_ENV=production, --headless; one process; no key of its own, no record",
        environ={"NODE_ENV": "production"},
    ),
    Gateway(
        LITELLM,
        "litellm",
        "LITELLM_MODE=PRODUCTION, LITELLM_LOG=ERROR, --run_granian; one worker; one key, no database; its Rust core is"
        " on (LITELLM_RUST, rust: true)",
        arguments="--run_granian",
        files={"config.yaml": _LITELLM_CONFIG},
        environ={"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_RUST": "true"},
    ),
)
