"""What every command gets: the folder, the environment, and the way to the use cases."""

from __future__ import annotations

import asyncio
import os
import shlex
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import rich_click as click

from ibex.domain.errors import NotFoundError
from ibex.entrypoints.destinations import DESTINATIONS, ONLY_CHAT_SENDS, misdirected, misdirection
from ibex.entrypoints.home import DEFAULT_HOME
from ibex.entrypoints.settings import Environment, MissingSettingError, Settings, SettingsError, variables
from ibex.entrypoints.settings_reference import COMMAND_LINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import httpx

    from ibex.domain.identity.management import NamedAgent, Organization
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.diagnosis import DoctorCheck
    from ibex.entrypoints.doctor_checks import Surroundings
    from ibex.entrypoints.home import Home

T = TypeVar("T")
Named = TypeVar("Named", "Organization", "NamedAgent")
_FEW: Final = 5


class NothingRunsError(SettingsError):
    """There is nothing to work with; the message says how to start it, and what would name it elsewhere."""


def _real(settings: Settings) -> AbstractAsyncContextManager[Administration]:
    from ibex.entrypoints.administration import administration  # noqa: PLC0415 - keeps --help quick

    return administration(settings)


def _real_examinations(settings: Settings, around: Surroundings) -> Sequence[DoctorCheck]:
    from ibex.entrypoints.doctor_checks import doctor_checks  # noqa: PLC0415 - keeps --help quick

    return doctor_checks(settings, around)


@dataclass(slots=True)
class Invocation:
    """One run of the command line. Tests put other things into its fields."""

    home: Home
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    open_administration: Callable[[Settings], AbstractAsyncContextManager[Administration]] = _real
    transport: httpx.BaseTransport | None = None
    dotenv: str = ".env"
    examine: Callable[[Settings, Surroundings], Sequence[DoctorCheck]] = _real_examinations

    def settings(self) -> Settings:
        """Return the settings: the environment's over those of what runs on the folder. Raises ``SettingsError``."""
        return Settings.load(self.environ_of_settings())

    def environ_of_settings(self) -> dict[str, str]:
        """Return what the settings are read from: the environment over ``.env`` over what runs on the folder.

        Of the latter two only what is a setting: it is the environment of workers, and what else ``.env`` holds, say
        for another program's ``PYTHONPATH``, is not for them. The journal is the folder's where nothing else is said.
        """
        names = {variable.name for _, variable in variables()}
        found = {**self.home.running_environ(), **self.environ_with_dotenv()}
        if not found.get("IBEX_JOURNAL_DIR", "").strip():
            found["IBEX_JOURNAL_DIR"] = str(self.home.journal)
        return {name: value for name, value in found.items() if name in names or name in self.environ}

    def environ_with_dotenv(self) -> dict[str, str]:
        """Return the environment over the file ``.env``, which production does not read.

        Raises ``SettingsError`` if the file sets production, if it is not UTF-8, or if it sets the destination of a
        secret from the environment.
        """
        if self.in_production:
            return dict(self.environ)
        found = self._dotenv()
        together = {**found, **self.environ}
        if _is_production(together):
            raise SettingsError(
                f"IBEX_ENV=production is in {self.dotenv}, which production does not read;"
                " set it in the environment, and the other settings with it."
            )
        wrong = misdirected(self.environ, found, DESTINATIONS.keys() - {ONLY_CHAT_SENDS})
        if wrong is not None:
            raise SettingsError(misdirection(*wrong, self.dotenv))
        return together

    def refuse_misdirected_token(self, secret: str | None) -> None:
        """Raise ``SettingsError`` if only ``.env`` names the proxy that would get a token from elsewhere.

        ``secret`` is the token of an option, of the environment or of the home; None if it is in ``.env``.
        """
        if secret is None or self.in_production:
            return
        wrong = misdirected({**self.environ, ONLY_CHAT_SENDS: secret}, self._dotenv(), (ONLY_CHAT_SENDS,))
        if wrong is not None:
            raise SettingsError(misdirection(*wrong, self.dotenv))

    def _dotenv(self) -> dict[str, str]:
        from dotenv import dotenv_values  # noqa: PLC0415 - keeps --help quick

        try:
            return {name: value for name, value in dotenv_values(self.dotenv, interpolate=False).items() if value}
        except UnicodeDecodeError:  # its message would contain a part of the file
            raise SettingsError(f"{self.dotenv} is not UTF-8.") from None

    @contextmanager
    def explaining(self, advice: str = "") -> Iterator[None]:
        """Add to a setting that is missing in the block what may explain it, and the advice, where there is any.

        Raises ``MissingSettingError``.
        """
        try:
            yield
        except MissingSettingError as missing:
            raise MissingSettingError("\n".join(filter(None, (str(missing), self.unread(), advice)))) from None

    def unread(self) -> str:
        """Say that there is a ``.env`` that is not read; empty where it is, or there is none."""
        if self.in_production and Path(self.dotenv).is_file():
            return f"{self.dotenv} exists, but it is not read with IBEX_ENV=production."
        return ""

    def no_settings(self) -> Sequence[str]:
        """Say of each variable that looks like one of IBEX's and is none which one may be meant, a line each."""
        known = [*(variable.name for _, variable in variables()), *COMMAND_LINE]
        said = []
        for name in sorted(self.environ_with_dotenv()):
            if name.startswith("IBEX_") and name not in known:
                close = get_close_matches(name, known, 1)
                said.append(f"Unknown setting {name}." + (f" Did you mean {close[0]}?" if close else ""))
        return said

    @property
    def in_production(self) -> bool:
        """Whether the environment says so."""
        return _is_production(self.environ)

    def administer(self, work: Callable[[Administration], Awaitable[T]]) -> T:
        """Run work over the servers that the settings name and return what it returns.

        Raises ``NothingRunsError`` where there are no such settings.
        """

        async def run() -> T:
            async with self.open_administration(self.settings()) as use_cases:
                return await work(use_cases)

        try:
            with self.explaining():
                return asyncio.run(run())
        except MissingSettingError as missing:
            if self.in_production:
                raise
            raise NothingRunsError(f"{self.nothing_runs()}\nOr, for servers elsewhere: {missing}") from None

    def nothing_runs(self) -> str:
        """Say that nothing runs on the folder, and how to start it."""
        absent = "" if self.home.path.is_dir() else " (the directory does not exist)"
        named = "" if self.home.path == Path(DEFAULT_HOME) else f" --home {shlex.quote(str(self.home.path))}"
        return f"No IBEX instance runs in {self.home.path}{absent}. Start one: `ibex{named} dev`."

    async def organization(self, use_cases: Administration, wanted: str | None) -> Organization:
        """Return the organization of this id or name; without one, the folder's first, or the only one there is.

        Raises ``NotFoundError``, and ``click.UsageError`` where there are several to choose from.
        """
        found = await use_cases.identity.organizations()
        installation = self.home.installation()
        if wanted is None and installation is not None:
            wanted = installation.org_id
        if wanted is not None:
            return _named(found, wanted, f"There is no organization {wanted!r}.")
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFoundError("There is no organization yet. Create the first one: `ibex bootstrap`.")
        raise click.UsageError(f"Which organization? --org takes one of {', '.join(o.name for o in found)}.")

    async def agent(self, use_cases: Administration, org: Organization, wanted: str) -> NamedAgent:
        """Return the organization's agent of this id or name. Raises ``NotFoundError``."""
        found = await use_cases.identity.agents(org.id)
        there_is = f" It has {', '.join(agent.name for agent in found)}." if 0 < len(found) <= _FEW else ""
        return _named(found, wanted, f"There is no agent {wanted!r} in the organization {org.name!r}.{there_is}")


def _is_production(environ: Mapping[str, str]) -> bool:
    return environ.get("IBEX_ENV", "").strip() == Environment.PRODUCTION


def _named(things: Iterable[Named], wanted: str, otherwise: str) -> Named:
    for thing in things:
        if thing.name == wanted or str(thing.id) == wanted.lower():
            return thing
    raise NotFoundError(otherwise)


def uuid_of(text: str) -> UUID:
    """Return the UUID that a user typed. Raises ``click.BadParameter``."""
    try:
        return UUID(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an id") from None
