"""What there is to look at, without a server; the servers are in ``tests/integration/test_doctor.py``."""

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
    """Return what a proxy says of itself."""
    checks = {name: {"status": "failed" if name in failed else "ok"} for name in ("auth", "redis")}
    return httpx.Response(status, json={"status": "whatever", "checks": checks})


def refuse(_request: httpx.Request) -> httpx.Response:
    """Be as a port on which nobody listens."""
    raise httpx.ConnectError("refused")


PROXY = "http://127.0.0.1:8080"


async def found(
    folder: Path,
    answer: Callable[[httpx.Request], httpx.Response] = refuse,
    *,
    proxy: str | None = PROXY,
    log: Path | None = None,
    **environ: str,
) -> dict[str, Finding]:
    """Return the findings by name; ``answer`` is the provider's and the proxy's."""
    around = DoctorContext(START, proxy, folder, httpx.MockTransport(answer), log)
    findings = await diagnose(doctor_checks(Settings.load(environ), around))
    return {finding.name: finding for finding in findings}


async def test_what_is_not_set_is_named(tmp_path: Path) -> None:
    """Databases are needed, with how to get them; Redis, auth and a provider's key are not."""
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


async def test_in_production_no_echo_is_promised(tmp_path: Path) -> None:
    """Who administers needs no key there; who serves does."""
    by_name = await found(tmp_path, IBEX_ENV="production")

    assert by_name["provider"].verdict is Verdict.ADVICE
    assert by_name["provider"].hint == "`ibex serve` needs it in production."


async def test_a_proxy_that_asks_auth_needs_redis(tmp_path: Path) -> None:
    """Without it a revoked token would be found out late."""
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
async def test_the_provider_is_asked_with_the_key(tmp_path: Path, status: int, verdict: str, said: str) -> None:
    """For its models, which costs nothing; the key is sent there and shown nowhere."""
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
async def test_the_provider_is_asked_with_the_operators_headers(
    tmp_path: Path, headers: str, authorization: str
) -> None:
    """The check sends the same headers as requests do, so it finds the same errors."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    by_name = await found(tmp_path, answer, OPENAI_API_KEY=KEY, IBEX_OPENAI_HEADERS=headers)

    sent = asked[0].headers
    assert (sent.get_list("authorization"), sent["api-key"]) == ([authorization], "canary-1")
    assert "canary" not in repr(by_name)


async def test_a_provider_that_lists_its_models_to_everybody_is_asked_more(tmp_path: Path) -> None:
    """An empty request for a completion costs nothing, and tells whether the key is taken."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401 if request.method == "POST" else 200, json={})

    by_name = await found(tmp_path, answer, OPENAI_API_KEY=KEY, OPENAI_BASE_URL="http://127.0.0.1:9/v1")

    assert by_name["provider"].verdict is Verdict.FAILED
    assert by_name["provider"].message == "http://127.0.0.1:9/v1 refuses the key (401)"


def access_line(status: int | None, second: int, attempts: int | None = 1) -> str:
    """Return an access line of a request that the provider answered so."""
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
async def test_the_key_of_what_runs_on_the_folder_is_judged_by_its_log(
    tmp_path: Path, lines: list[str], said: str | None
) -> None:
    """The key is not known here; what the provider said of it last is."""
    log = tmp_path / "proxy.log"
    log.write_text("".join(lines))

    by_name = await found(tmp_path, log=log)

    assert by_name["provider"].verdict is (Verdict.FAILED if said else Verdict.ABSENT)
    assert (said or "not set here") in by_name["provider"].message


async def test_without_an_address_no_proxy_is_asked(tmp_path: Path) -> None:
    """What answers at the default address is another folder's."""
    by_name = await found(tmp_path, lambda _: ready(), proxy=None)

    assert (by_name["proxy"].verdict, by_name["proxy"].message) == (Verdict.ADVICE, "no running proxy was found")
    assert START in (by_name["proxy"].hint or "")


async def test_a_provider_that_cannot_be_reached_is_a_failure(tmp_path: Path) -> None:
    """With what may be in between."""
    by_name = await found(tmp_path, OPENAI_API_KEY=KEY)

    assert (by_name["provider"].verdict, by_name["provider"].message) == (Verdict.FAILED, "Failed with ConnectError.")
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
async def test_the_proxy_is_asked_whether_it_is_ready(
    tmp_path: Path, answer: httpx.Response, verdict: str, said: str
) -> None:
    """And what it lacks is named."""
    by_name = await found(tmp_path, lambda _: answer)

    assert by_name["proxy"].verdict == verdict
    assert by_name["proxy"].message.endswith(said)


async def test_the_journals_folder_may_be_made_later(tmp_path: Path) -> None:
    """Where its parent can be written to."""
    assert (await found(tmp_path / "a" / "b"))["journal"].message == f"{tmp_path / 'a' / 'b'} can be created"
    assert (await found(tmp_path))["journal"].message == f"{tmp_path} can be written to"


async def test_a_journal_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    """A file in its place, for one."""
    (tmp_path / "journal").write_text("")

    by_name = await found(tmp_path / "journal")

    assert (by_name["journal"].verdict, by_name["journal"].message) == (
        Verdict.FAILED,
        f"{tmp_path / 'journal'} cannot be written to",
    )


async def test_what_a_database_refused_for_good_is_pointed_at(tmp_path: Path) -> None:
    """By the file; an empty one has nothing to say."""
    letters = tmp_path / "one" / "dead-letters.jsonl"
    letters.parent.mkdir()
    letters.write_text("")
    assert (await found(tmp_path))["journal"].verdict is Verdict.OK
    letters.write_text(json.dumps({"reason": "x"}))

    by_name = await found(tmp_path)

    assert (by_name["journal"].verdict, str(letters) in by_name["journal"].message) == (Verdict.ADVICE, True)


async def test_a_full_disk_is_a_failure(tmp_path: Path) -> None:
    """The journal needs a little room to write anything; the folder is named."""
    with small_disk(tmp_path / "small", 1 << 21) as disk:
        assert (await found(disk.path / "journal"))["journal"].verdict is Verdict.ADVICE
        disk.fill()
        finding = (await found(disk.path / "journal"))["journal"]

    assert finding.verdict is Verdict.FAILED
    assert f"the disk of {tmp_path / 'small' / 'journal'} is full (0 KiB free)" in finding.message


async def test_a_disk_that_has_less_than_the_journal_may_take_is_told(tmp_path: Path) -> None:
    """Before it is full."""
    by_name = await found(tmp_path, IBEX_JOURNAL_MAX_BYTES=str(1 << 40))

    assert (by_name["journal"].verdict, "MiB free, but the journal can grow to" in by_name["journal"].message) == (
        Verdict.ADVICE,
        True,
    )
