"""What `ibex doctor` shows of what was found, and its exit code."""

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
    """Return an examination that comes out so."""

    async def look() -> Result:
        return result

    return DoctorCheck(name, look, "Do this.")


WELL = examination("PostgreSQL", ok("it answers"))
ABSENT = examination("Redis", Result(Verdict.ABSENT, "not set"))
ADVICE = examination("proxy", Result(Verdict.ADVICE, "almost", "Do that."))
ILL = [examination(name, Result(Verdict.FAILED, "not there", "Start it.")) for name in ("one", "other")]


def test_where_nothing_is_wrong_it_says_so(ibex: CliScene) -> None:
    """A line a thing; what is absent, and advice, are no failures."""
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


def test_what_fails_is_the_exit_code(ibex: CliScene) -> None:
    """What to do is said once where it is the same for several."""
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
def test_programs_get_one_document(ibex: CliScene, found: list[DoctorCheck], code: int) -> None:
    """With the same exit codes."""
    ibex.doctor_checks = found

    done = ibex.run("doctor", "--json")

    told = json.loads(done.out)
    assert (done.code, told["healthy"]) == (code, code == 0)
    assert set(told["findings"][0]) == {"name", "verdict", "said", "hint", "took_ms"}
    assert [finding["name"] for finding in told["findings"]] == [examination.name for examination in found]


def test_a_wrong_setting_is_named_before_anything_is_looked_at(ibex: CliScene) -> None:
    """As by every command: exit code 2."""
    ibex.doctor_checks = [WELL]
    ibex.environ["IBEX_PORT"] = "high"

    done = ibex.run("doctor")

    assert (done.code, done.out) == (2, "")
    assert "IBEX_PORT is 'high'" in done.err


def test_what_looks_like_a_setting_and_is_none_is_told(ibex: CliScene) -> None:
    """With the one that is nearest, if one is near; not of other programs' variables, nor of the command line's own."""
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


def test_a_forward_proxy_that_is_not_used_is_told(ibex: CliScene) -> None:
    """The advice does not contain its address."""
    ibex.doctor_checks = [WELL]
    ibex.environ |= {"OPENAI_API_KEY": "sk-x", "HTTPS_PROXY": "http://user:canary@proxy.example"}

    done = ibex.run("doctor")

    assert done.out.startswith("advice  settings    HTTPS_PROXY is set, but IBEX_OPENAI_TRANSPORT=direct connects to")
    assert "canary" not in done.out
    ibex.environ["NO_PROXY"] = "api.openai.com"
    assert ibex.run("doctor").out.startswith("ok")


def test_a_dotenv_that_production_does_not_read_is_told(ibex: CliScene) -> None:
    """So is not what stands in it."""
    ibex.environ["IBEX_ENV"] = "production"
    ibex.dotenv.write_text("IBEX_PRT=1\n")

    (finding,) = ibex.run("doctor", "--json").json["findings"]

    assert finding["said"].startswith(f"{ibex.dotenv} exists, but IBEX_ENV=production does not read it. Set its")


def surroundings(ibex: CliScene, environ: dict[str, str], *options: str) -> DoctorContext:
    """Return what is known besides the settings when the doctor is asked so."""
    asked: list[DoctorContext] = []

    def examine(_settings: Settings, around: DoctorContext) -> list[DoctorCheck]:
        asked.append(around)
        return []

    invocation = Invocation(ibex.home, environ, dotenv=str(ibex.dotenv), doctor_checks=examine)
    assert main(["doctor", *options], invocation) == 0
    return asked[0]


def test_another_folders_proxy_is_not_this_ones(ibex: CliScene) -> None:
    """Where nothing runs on the folder, what answers at the default address is not asked; a named one is."""
    assert surroundings(ibex, {}).proxy is None
    assert surroundings(ibex, {"IBEX_PORT": "9000"}).proxy == "http://127.0.0.1:9000"
    assert surroundings(ibex, {"IBEX_DATABASE_URL": "postgresql://db/ibex"}).proxy == "http://127.0.0.1:8080"
    below = {"IBEX_PORT": "9000", "IBEX_BASE_PATH": "/gateway"}
    assert surroundings(ibex, below).proxy == "http://127.0.0.1:9000/gateway"
    assert surroundings(ibex, {}, "--url", "http://else:1").proxy == "http://else:1"


def test_what_runs_on_the_folder_is_known_with_its_log_and_token(ibex: CliScene) -> None:
    """Both are the folder's; where nothing runs, neither says anything of now."""
    installation = ibex.install()
    around = surroundings(ibex, {})
    assert (around.proxy, around.log, around.token) == (None, None, None)
    with ibex.home.claim():
        ibex.home.announce("http://127.0.0.1:9", {})
        around = surroundings(ibex, {})
    assert (around.proxy, around.log, around.token) == (
        "http://127.0.0.1:9",
        ibex.home.log,
        installation.agent_token,
    )


@pytest.mark.parametrize(("environ", "start"), [({}, "Start one: `ibex"), ({"IBEX_ENV": "production"}, "`ibex serve`")])
def test_production_is_not_sent_to_the_embedded_default(ibex: CliScene, environ: dict[str, str], start: str) -> None:
    """What starts what does not run is another thing there."""
    asked: list[DoctorContext] = []

    def examine(_settings: Settings, around: DoctorContext) -> list[DoctorCheck]:
        asked.append(around)
        return []

    assert main(["doctor"], Invocation(ibex.home, environ, dotenv=str(ibex.dotenv), doctor_checks=examine)) == 0

    assert [start in around.start for around in asked] == [True]
