"""The doctor checks without servers. ``tests/integration/test_doctor.py`` tests them with servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.small_disk import small_disk
from ibex.entrypoints.diagnosis import Finding, Verdict, diagnose
from ibex.entrypoints.doctor_checks import DoctorContext, doctor_checks
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "sk-canary"
START = "`ibex dev` starts it."


def ready(*failed: str, status: int = 200) -> httpx.Response:
    """Return the readiness report of a proxy."""
    checks = {name: {"status": "failed" if name in failed else "ok"} for name in ("auth", "redis")}
    return httpx.Response(status, json={"status": "whatever", "checks": checks})


def refuse(_request: httpx.Request) -> httpx.Response:
    """Refuse the connection, like a port without a listener."""
    raise httpx.ConnectError("refused")


PROXY = "http://127.0.0.1:8080"


async def found(
    folder: Path,
    answer: Callable[[httpx.Request], httpx.Response] = refuse,
    *,
    proxy: str | None = PROXY,
    log: Path | None = None,
    provider: str | None = None,
    **environ: str,
) -> dict[str, Finding]:
    """Return the findings by name. ``answer`` responds for the provider and the proxy."""
    around = DoctorContext(START, proxy, folder, httpx.MockTransport(answer), log, provider)
    findings = await diagnose(doctor_checks(Settings.load(environ), around))
    return {finding.name: finding for finding in findings}


async def test_missing_settings_are_reported(tmp_path: Path) -> None:
    """PostgreSQL and ClickHouse are required. Redis, auth and a provider's key are optional."""
    by_name = await found(tmp_path)

    assert {name: finding.verdict.value for name, finding in by_name.items()} == {
        **dict.fromkeys(("PostgreSQL", "identity", "ClickHouse"), "failed"),
        **dict.fromkeys(("Redis", "auth", "provider"), "absent"),
        "journal": "ok",
        "proxy": "advice",
    }
    assert by_name["PostgreSQL"].message == "IBEX_DATABASE_URL is not set"
    assert by_name["PostgreSQL"].hint == START
    assert "the key of a running proxy cannot be checked" in by_name["provider"].message
    assert by_name["proxy"].message == "no proxy answers at http://127.0.0.1:8080 (ConnectError)"


async def test_a_missing_key_is_advice_in_production(tmp_path: Path) -> None:
    """Only `ibex serve` requires the key. Administration does not."""
    by_name = await found(tmp_path, IBEX_ENV="production")

    assert by_name["provider"].verdict is Verdict.ADVICE
    assert by_name["provider"].hint == "`ibex serve` needs it in production."


async def test_a_proxy_that_uses_auth_needs_redis(tmp_path: Path) -> None:
    """Without Redis, the proxy would detect a revoked token late."""
    settings = Settings.load({"IBEX_AUTH_ADDRESS": "127.0.0.1:1"})
    (redis,) = (one for one in doctor_checks(settings, DoctorContext(START, None, tmp_path)) if one.name == "Redis")

    (finding,) = await diagnose([redis])

    assert (finding.verdict, finding.message) == (Verdict.FAILED, "IBEX_REDIS_URL is not set")


@pytest.mark.parametrize(
    ("status", "verdict", "said"),
    [
        (200, "ok", "accepts the key"),
        (401, "failed", "refuses the key (401)"),
        (403, "failed", "refuses the key (403)"),
        (404, "advice", "answers 404"),
        (500, "advice", "answers 500"),
    ],
)
async def test_the_key_is_checked_with_the_list_of_models(tmp_path: Path, status: int, verdict: str, said: str) -> None:
    """Listing models is free. Only the provider receives the key, and no finding contains it."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, text=KEY)

    by_name = await found(tmp_path, answer, OPENAI_API_KEY=KEY, OPENAI_BASE_URL="http://127.0.0.1:9/v1")

    assert (by_name["provider"].verdict, said in by_name["provider"].message) == (verdict, True)
    assert (asked[0].url.path, asked[0].headers["authorization"]) == ("/v1/models", f"Bearer {KEY}")
    assert "authorization" not in asked[-1].headers
    assert KEY not in repr(by_name)


@pytest.mark.parametrize(
    ("headers", "authorization"),
    [("api-key: canary-1", f"Bearer {KEY}"), ("Authorization: canary-2; api-key: canary-1", "canary-2")],
)
async def test_the_provider_check_sends_the_operators_headers(tmp_path: Path, headers: str, authorization: str) -> None:
    """The check sends the same headers as requests do, so it finds the same errors."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    by_name = await found(tmp_path, answer, OPENAI_API_KEY=KEY, IBEX_OPENAI_HEADERS=headers)

    sent = asked[0].headers
    assert (sent.get_list("authorization"), sent["api-key"]) == ([authorization], "canary-1")
    assert "canary" not in repr(by_name)


async def test_a_public_list_of_models_needs_a_second_request(tmp_path: Path) -> None:
    """An empty completion request is free and shows whether the provider accepts the key."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401 if request.method == "POST" else 200, json={})

    by_name = await found(tmp_path, answer, OPENAI_API_KEY=KEY, OPENAI_BASE_URL="http://127.0.0.1:9/v1")

    assert by_name["provider"].verdict is Verdict.FAILED
    assert by_name["provider"].message == "http://127.0.0.1:9/v1 refuses the key (401)"


def access_line(status: int | None, second: int, attempts: int | None = 1) -> str:
    """Return the access line of a request with this provider status."""
    own = {"source": "ibex.access", "timestamp": f"2026-01-02T03:04:{second:02}Z"}
    return json.dumps({**own, "attempts": attempts, "provider_status": status}, separators=(",", ":")) + "\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [access_line(None, 1), access_line(401, 2), access_line(None, 3, None), "half a li"],
            "(401) at 2026-01-02T03",
        ),
        ([access_line(403, 1)], "(403) at"),
        ([access_line(401, 1), access_line(None, 2)], None),
        ([access_line(500, 1)], None),
        ([], None),
    ],
    ids=["refused last", "forbidden", "replaced since", "another fault", "no request yet"],
)
async def test_the_key_of_a_running_proxy_is_checked_by_its_log(
    tmp_path: Path, lines: list[str], said: str | None
) -> None:
    """The command does not have the key, so it reads the provider's last status from the log."""
    log = tmp_path / "proxy.log"
    log.write_text("".join(lines))

    by_name = await found(tmp_path, log=log)

    assert by_name["provider"].verdict is (Verdict.FAILED if said else Verdict.ABSENT)
    assert (said or "not set here") in by_name["provider"].message


async def test_the_provider_of_a_running_proxy_is_asked_without_a_key(tmp_path: Path) -> None:
    """The command does not have the key, but it finds that there is no way to the provider."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.host == "localhost":
            raise httpx.ConnectError("canary") from ConnectionRefusedError()
        return httpx.Response(401)

    unreached = (await found(tmp_path, answer, provider="http://localhost:9/v1"))["provider"]
    reached = (await found(tmp_path, answer, provider="http://127.0.0.1:9/v1"))["provider"]

    refused = "cannot connect to localhost:9: connection refused"
    assert (unreached.verdict, unreached.message) == (Verdict.FAILED, refused)
    assert "OPENAI_BASE_URL" in (unreached.hint or "")
    assert (reached.verdict, "http://127.0.0.1:9/v1 can be reached" in reached.message) == (Verdict.ABSENT, True)
    assert {request.headers.get("authorization") for request in asked} == {None}


async def test_echo_needs_no_provider(tmp_path: Path) -> None:
    """The finding says so, instead of asking for a key."""
    finding = (await found(tmp_path, provider="echo"))["provider"]

    assert (finding.verdict, finding.message) == (Verdict.OK, "the running proxy uses echo")


async def test_a_provider_that_is_reachable_again_is_advice(tmp_path: Path) -> None:
    """The log has the reason of the last failure. The proxy may have another network than this command."""
    log = tmp_path / "proxy.log"
    failure = {"source": "ibex.access", "timestamp": "2026-01-02T03:04:05Z", "attempts": 4, "connect_failure": "no way"}
    log.write_text(json.dumps(failure, separators=(",", ":")) + "\n")

    finding = (await found(tmp_path, lambda _: httpx.Response(401), log=log, provider=PROXY))["provider"]

    assert finding.verdict is Verdict.ADVICE
    assert finding.message == "the last request of the running proxy failed at 2026-01-02T03:04:05Z: no way"


async def test_the_proxy_check_needs_an_address(tmp_path: Path) -> None:
    """The proxy at the default address may belong to another folder."""
    by_name = await found(tmp_path, lambda _: ready(), proxy=None)

    assert (by_name["proxy"].verdict, by_name["proxy"].message) == (Verdict.ADVICE, "no running proxy was found")
    assert START in (by_name["proxy"].hint or "")


async def test_an_unreachable_provider_is_a_failure(tmp_path: Path) -> None:
    """The finding contains the host and the reason but not the key."""
    by_name = await found(tmp_path, OPENAI_API_KEY=KEY)

    assert (by_name["provider"].verdict, by_name["provider"].message) == (
        Verdict.FAILED,
        "cannot connect to api.openai.com: the connection failed",
    )
    assert KEY not in repr(by_name)


@pytest.mark.parametrize(
    ("answer", "verdict", "said"),
    [
        (ready(), "ok", "is ready"),
        (ready("redis"), "advice", "serves, but without redis"),
        (ready("auth", "redis", status=503), "failed", "is not ready (auth, redis)"),
        (httpx.Response(200, text="<html>"), "failed", "is not ready (200)"),
        (httpx.Response(200, json=[]), "failed", "is not ready (200)"),
    ],
    ids=["ready", "degraded", "unhealthy", "a page", "a list"],
)
async def test_the_proxy_check_reports_readiness(
    tmp_path: Path, answer: httpx.Response, verdict: str, said: str
) -> None:
    """The finding names the failed checks."""
    by_name = await found(tmp_path, lambda _: answer)

    assert by_name["proxy"].verdict == verdict
    assert by_name["proxy"].message.endswith(said)


async def test_a_missing_journal_folder_is_ok(tmp_path: Path) -> None:
    """An existing parent folder must be writable."""
    assert (await found(tmp_path / "a" / "b"))["journal"].message == f"{tmp_path / 'a' / 'b'} can be created"
    assert (await found(tmp_path))["journal"].message == f"{tmp_path} can be written to"


async def test_a_journal_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    """Here, a file has the path of the folder."""
    (tmp_path / "journal").write_text("")

    by_name = await found(tmp_path / "journal")

    assert (by_name["journal"].verdict, by_name["journal"].message) == (
        Verdict.FAILED,
        f"{tmp_path / 'journal'} is not a directory",
    )


async def test_dead_letters_are_advice(tmp_path: Path) -> None:
    """The finding names the file. An empty file is ignored."""
    letters = tmp_path / "one" / "dead-letters.jsonl"
    letters.parent.mkdir()
    letters.write_text("")
    assert (await found(tmp_path))["journal"].verdict is Verdict.OK
    letters.write_text(json.dumps({"reason": "x"}))

    by_name = await found(tmp_path)

    assert (by_name["journal"].verdict, str(letters) in by_name["journal"].message) == (Verdict.ADVICE, True)


async def test_a_full_disk_is_a_failure(tmp_path: Path) -> None:
    """The finding names the folder. The journal needs some free space for any write."""
    with small_disk(tmp_path / "small", 1 << 21) as disk:
        assert (await found(disk.path / "journal"))["journal"].verdict is Verdict.ADVICE
        disk.fill()
        finding = (await found(disk.path / "journal"))["journal"]

    assert finding.verdict is Verdict.FAILED
    assert f"the disk of {tmp_path / 'small' / 'journal'} is full (0 KiB free)" in finding.message


async def test_less_free_space_than_the_journals_limit_is_advice(tmp_path: Path) -> None:
    """The check warns before the disk is full."""
    by_name = await found(tmp_path, IBEX_JOURNAL_MAX_BYTES=str(1 << 40))

    assert (by_name["journal"].verdict, "MiB free, but the journal can grow to" in by_name["journal"].message) == (
        Verdict.ADVICE,
        True,
    )
