"""How a process ends: an exit code that scripts can use, and one line on standard error where it failed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from ibex.adapters.postgres.roles import UnsafeRoleError
from ibex.domain.errors import IbexError
from ibex.domain.identity.management import AlreadyExistsError
from ibex.domain.record.journal import JournalUnavailableError
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.entrypoints.home import HomeInUseError
from ibex.entrypoints.settings import SettingsError
from ibex.entrypoints.untrusted_text import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class WorkFailedError(Exception):
    """What was asked for could not be done, for the world's reasons; the message is one line and names no secret."""


EXPECTED: Final = (
    WorkFailedError,
    UnsafeRoleError,
    IbexError,
    AlreadyExistsError,
    SinkUnavailableError,
    JournalUnavailableError,
    HomeInUseError,
    OSError,
    ValueError,
)
"""What is told in one line: the world's failures. Anything else is a bug and shows itself."""


def exit_code_of(work: Callable[[], int]) -> int:
    """Do a process's work and return its exit code: the work's own, 1 where it failed, 2 for wrong settings."""
    try:
        return work()
    except KeyboardInterrupt:
        return EXIT_FAILED
    except SettingsError as wrong:
        return _fail(str(wrong), EXIT_USAGE)
    except EXPECTED as failure:
        return _fail(_said(failure), EXIT_FAILED)


def _said(failure: Exception) -> str:
    if isinstance(failure, IbexError):
        return failure.message
    if isinstance(
        failure, (UnicodeEncodeError, UnicodeDecodeError)
    ):  # its own words are about codecs, and quote the text
        return "The input is not valid UTF-8."
    return said_of_the_system(failure) if isinstance(failure, OSError) else str(failure)


def said_of_the_system(error: OSError) -> str:
    """Return what the system says, and of which file or folder."""
    if error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return error.strerror or str(error)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"ibex: {sanitize(message)}\n")
    return code
