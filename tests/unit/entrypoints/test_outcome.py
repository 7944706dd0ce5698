"""Exit codes and error output, shared by the command line and the workers."""

from __future__ import annotations

import pytest

from ibex.adapters.postgres.roles import UnsafeRoleError
from ibex.domain.errors import NotFoundError
from ibex.domain.record.journal import JournalUnavailableError
from ibex.entrypoints.outcome import CommandFailedError, exit_code_of
from ibex.entrypoints.settings import SettingsError


def failing(failure: BaseException) -> int:
    """Raise this exception."""
    raise failure


def test_completed_work_returns_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed."""
    assert [exit_code_of(lambda: 0), exit_code_of(lambda: 3)] == [0, 3]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (NotFoundError("There is no such agent."), 1, "ibex: There is no such agent.\n"),
        (JournalUnavailableError("The journal is no directory."), 1, "ibex: The journal is no directory.\n"),
        (ConnectionRefusedError(111, "Connection refused"), 1, "ibex: Connection refused\n"),
        (PermissionError(13, "Permission denied", "/srv/ibex"), 1, "ibex: /srv/ibex: Permission denied\n"),
        (
            UnicodeEncodeError("utf-8", "canary", 0, 1, "surrogates not allowed"),
            1,
            "ibex: The input is not valid UTF-8.\n",
        ),
        (CommandFailedError("IBEX_X_URL: nothing listens there"), 1, "ibex: IBEX_X_URL: nothing listens there\n"),
        (UnsafeRoleError("the role 'ibex' owns tables"), 1, "ibex: the role 'ibex' owns tables\n"),
        (ValueError("it has no digit"), 1, "ibex: it has no digit\n"),
        (SettingsError("IBEX_PORT is 'x'; allowed: 0 to 65535."), 2, "ibex: IBEX_PORT is 'x'; allowed: 0 to 65535.\n"),
        (KeyboardInterrupt(), 1, ""),
    ],
)
def test_an_expected_failure_is_one_line(
    capsys: pytest.CaptureFixture[str], failure: BaseException, code: int, said: str
) -> None:
    """It goes to standard error without a traceback. Ctrl-C prints nothing."""
    assert exit_code_of(lambda: failing(failure)) == code
    assert capsys.readouterr() == ("", said)


def test_an_unexpected_exception_is_raised() -> None:
    """A bug is not reported as an operational failure."""
    with pytest.raises(KeyError):
        exit_code_of(lambda: failing(KeyError("oops")))
