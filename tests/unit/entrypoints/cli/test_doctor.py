"""The output and the exit code of `ibex doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.cli.main import main
from ibex.entrypoints.diagnosis import DoctorCheck, Result, Verdict, ok

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.entrypoints.doctor_checks import DoctorContext
    from ibex.entrypoints.settings import Settings


def examination(name: str, result: Result) -> DoctorCheck:
    """Return a check with this result."""

    async def look() -> Result:
        return result

    return DoctorCheck(name, look, "Do this.")


WELL = examination("PostgreSQL", ok("it answers"))
ABSENT = examination("Redis", Result(Verdict.ABSENT, "not set"))
ADVICE = examination("proxy", Result(Verdict.ADVICE, "almost", "Do that."))
ILL = [examination(name, Result(Verdict.FAILED, "not there", "Start it.")) for name in ("one", "other")]


def test_a_report_without_failures_exits_with_0(ibex: CliScene) -> None:
    """Each check has a line. Absent services and advice are not failures."""
    ibex.doctor_checks = [WELL, ABSENT, ADVICE]

    done = ibex.run("doctor")

    assert done.code == 0
    assert done.out.splitlines() == [
        "ok      PostgreSQL  it answers",
        "absent  Redis       not set",
        "advice  proxy       almost",
        "        → Do that.",
        "",
        "No check failed. 1 gave advice.",
    ]
    ibex.doctor_checks = [WELL, ABSENT]
    assert ibex.run("doctor").out.splitlines()[-1] == "Nothing is wrong."


def test_a_failed_check_exits_with_1(ibex: CliScene) -> None:
    """A hint that several checks share is printed once."""
    ibex.doctor_checks = [WELL, *ILL]

    done = ibex.run("doctor")

    assert done.code == 1
    assert done.out.splitlines()[1:] == [
        "failed  one         not there",
        "        → Start it.",
        "failed  other       not there",
        "",
        "2 of 3 checks failed.",
    ]


@pytest.mark.parametrize(("found", "code"), [([WELL, ADVICE], 0), ([WELL, *ILL], 1)])
def test_json_is_one_document(ibex: CliScene, found: list[DoctorCheck], code: int) -> None:
    """The exit codes are the same as without ``--json``."""
    ibex.doctor_checks = found

    done = ibex.run("doctor", "--json")

    told = json.loads(done.out)
    assert (done.code, told["healthy"]) == (code, code == 0)
    assert set(told["findings"][0]) == {"name", "verdict", "message", "hint", "took_ms"}
    assert [finding["name"] for finding in told["findings"]] == [examination.name for examination in found]


def test_an_invalid_setting_is_reported_before_any_check(ibex: CliScene) -> None:
    """The exit code is 2, like that of every command."""
    ibex.doctor_checks = [WELL]
    ibex.environ["IBEX_PORT"] = "high"

    done = ibex.run("doctor")

    assert (done.code, done.out) == (2, "")
    assert "IBEX_PORT is 'high'" in done.err


def test_an_unknown_setting_is_reported(ibex: CliScene) -> None:
    """The advice suggests a similar name. Variables of other programs and of the command line are ignored."""
    ibex.doctor_checks = [WELL]
    ibex.environ |= {"IBEX_PRT": "1", "IBEX_TOKEN": "t", "IBEX_HOME": "h", "PRT": "1"}
    ibex.dotenv.write_text("IBEX_ZZZZZZZZZZZZZZZZ=1\nPORT=1\nIBEX_LOG_LEVEL=info\n")

    done = ibex.run("doctor")

    assert done.code == 0
    assert done.out.splitlines()[:3] == [
        "advice  settings    Unknown setting IBEX_PRT. Did you mean IBEX_PORT?",
        "advice  settings    Unknown setting IBEX_ZZZZZZZZZZZZZZZZ. It has no effect. Remove it.",
        "ok      PostgreSQL  it answers",
    ]


def test_an_unused_forward_proxy_is_reported(ibex: CliScene) -> None:
    """The advice does not contain its address."""
    ibex.doctor_checks = [WELL]
    ibex.environ |= {"OPENAI_API_KEY": "sk-x", "HTTPS_PROXY": "http://user:canary@proxy.example"}

    done = ibex.run("doctor")

    assert done.out.startswith("advice  settings    HTTPS_PROXY is set, but IBEX_OPENAI_TRANSPORT=direct connects to")
    assert "canary" not in done.out
    ibex.environ["NO_PROXY"] = "api.openai.com"
    assert ibex.run("doctor").out.startswith("ok")


def test_a_dotenv_that_production_ignores_is_reported(ibex: CliScene) -> None:
    """The settings in it are not checked."""
    ibex.environ["IBEX_ENV"] = "production"
    ibex.dotenv.write_text("IBEX_PRT=1\n")

    (finding,) = ibex.run("doctor", "--json").json["findings"]

    assert finding["message"].startswith(f"{ibex.dotenv} exists, but IBEX_ENV=production does not read it. Set its")


def surroundings(ibex: CliScene, environ: dict[str, str], *options: str) -> DoctorContext:
    """Return the context of the checks for these variables and options."""
    asked: list[DoctorContext] = []

    def examine(_settings: Settings, around: DoctorContext) -> list[DoctorCheck]:
        asked.append(around)
        return []

    invocation = Invocation(ibex.home, environ, dotenv=str(ibex.dotenv), doctor_checks=examine)
    assert main(["doctor", *options], invocation) == 0
    return asked[0]


def test_the_default_address_is_not_checked_without_a_running_proxy(ibex: CliScene) -> None:
    """A proxy there may belong to another folder. An address that is set or given is checked."""
    assert surroundings(ibex, {}).proxy is None
    assert surroundings(ibex, {"IBEX_PORT": "9000"}).proxy == "http://127.0.0.1:9000"
    assert surroundings(ibex, {"IBEX_DATABASE_URL": "postgresql://db/ibex"}).proxy == "http://127.0.0.1:8080"
    below = {"IBEX_PORT": "9000", "IBEX_BASE_PATH": "/gateway"}
    assert surroundings(ibex, below).proxy == "http://127.0.0.1:9000/gateway"
    assert surroundings(ibex, {}, "--url", "http://else:1").proxy == "http://else:1"


def test_a_running_proxy_is_found_with_its_log_provider_and_token(ibex: CliScene) -> None:
    """Without a running proxy, the log and the token of the folder are not used."""
    installation = ibex.install()
    around = surroundings(ibex, {})
    assert (around.proxy, around.log, around.provider, around.token) == (None, None, None, None)
    with ibex.home.claim():
        ibex.home.announce("http://127.0.0.1:9", {}, "echo")
        around = surroundings(ibex, {})
    assert (around.proxy, around.log, around.provider, around.token) == (
        "http://127.0.0.1:9",
        ibex.home.log,
        "echo",
        installation.agent_token,
    )


@pytest.mark.parametrize(("environ", "start"), [({}, "Start one: `ibex"), ({"IBEX_ENV": "production"}, "`ibex serve`")])
def test_the_hint_to_start_a_proxy_depends_on_the_environment(
    ibex: CliScene, environ: dict[str, str], start: str
) -> None:
    """Production gets `ibex serve` instead of the embedded default."""
    asked: list[DoctorContext] = []

    def examine(_settings: Settings, around: DoctorContext) -> list[DoctorCheck]:
        asked.append(around)
        return []

    assert main(["doctor"], Invocation(ibex.home, environ, dotenv=str(ibex.dotenv), doctor_checks=examine)) == 0

    assert [start in around.start for around in asked] == [True]
