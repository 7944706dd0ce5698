"""Exit codes for scripts, and the line on standard error that reports a failure."""

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


class CommandFailedError(Exception):
    """A command failed for a reason outside IBEX. The message is one line and contains no secret."""


EXPECTED_ERRORS: Final = (
    CommandFailedError,
    UnsafeRoleError,
    IbexError,
    AlreadyExistsError,
    SinkUnavailableError,
    JournalUnavailableError,
    HomeInUseError,
    OSError,
    ValueError,
)
"""Errors with a cause outside IBEX, which are reported in one line. Any other error is a bug and propagates."""


def exit_code_of(work: Callable[[], int]) -> int:
    """Run ``work`` and return an exit code: that of ``work``, 1 if it failed, or 2 for invalid settings.

    A failure is reported on standard error.
    """
    try:
        return work()
    except KeyboardInterrupt:
        return EXIT_FAILED
    except SettingsError as invalid:
        return _fail(str(invalid), EXIT_USAGE)
    except EXPECTED_ERRORS as failure:
        return _fail(_message_of(failure), EXIT_FAILED)


def _message_of(failure: Exception) -> str:
    if isinstance(failure, IbexError):
        return failure.message
    if isinstance(failure, (UnicodeEncodeError, UnicodeDecodeError)):  # their messages are about codecs, and quote text
        return "The input is not valid UTF-8."
    return os_error_message(failure) if isinstance(failure, OSError) else str(failure)


def os_error_message(error: OSError) -> str:
    """Return the operating system's message, after the name of the file or folder if there is one."""
    if error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return error.strerror or str(error)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"ibex: {sanitize(message)}\n")
    return code
