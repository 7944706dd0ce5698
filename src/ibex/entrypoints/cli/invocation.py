"""The context of every command: the home folder, the environment, the settings and the administrative use cases."""

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
from ibex.entrypoints.destinations import DESTINATIONS, ONLY_CHAT_SENDS, redirected_secret, redirected_secret_message
from ibex.entrypoints.foreign_variables import is_of_kubernetes
from ibex.entrypoints.home import DEFAULT_HOME
from ibex.entrypoints.setting_files import SUFFIX, file_variable, is_set, layered
from ibex.entrypoints.settings import Environment, MissingSettingError, Settings, SettingsError, variables
from ibex.entrypoints.settings_reference import COMMAND_LINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import httpx

    from ibex.domain.identity.management import NamedAgent, Organization
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.diagnosis import DoctorCheck
    from ibex.entrypoints.doctor_checks import DoctorContext
    from ibex.entrypoints.home import Home

T = TypeVar("T")
Named = TypeVar("Named", "Organization", "NamedAgent")
_MAX_LISTED_NAMES: Final = 5
"""A message lists existing names only if there are at most this many."""
_CHANGED: Final = ("IBEX_DATABASE_URL", "IBEX_AUTH_DATABASE_URL")
"""The settings of the databases that commands change."""


class NoInstanceError(SettingsError):
    """No IBEX instance runs in the home folder, and the settings name no servers. The message says how to start one."""


def _open_administration(settings: Settings, epoch_file: Path | None) -> AbstractAsyncContextManager[Administration]:
    from ibex.entrypoints.administration import administration  # noqa: PLC0415 - keeps --help quick

    return administration(settings, epoch_file)


def _doctor_checks(settings: Settings, context: DoctorContext) -> Sequence[DoctorCheck]:
    from ibex.entrypoints.doctor_checks import doctor_checks  # noqa: PLC0415 - keeps --help quick

    return doctor_checks(settings, context)


@dataclass(slots=True)
class Invocation:
    """One run of the command line. Tests replace its fields."""

    home: Home
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    open_administration: Callable[[Settings, Path | None], AbstractAsyncContextManager[Administration]] = (
        _open_administration
    )
    transport: httpx.BaseTransport | None = None
    dotenv: str = ".env"
    doctor_checks: Callable[[Settings, DoctorContext], Sequence[DoctorCheck]] = _doctor_checks

    def settings(self) -> Settings:
        """Return the settings, read from ``environ_of_settings``. Raises ``SettingsError`` if one is invalid."""
        return Settings.load(self.environ_of_settings())

    def environ_of_settings(self) -> dict[str, str]:
        """Return the variables that settings are read from.

        The environment takes precedence over ``.env``, which takes precedence over the instance that runs in the home
        folder. From the latter two only settings are taken: workers get this environment, and must not get variables
        for other programs, such as PYTHONPATH. The journal is in the home folder unless IBEX_JOURNAL_DIR is set.
        """
        names = _setting_names()
        found = layered(self.home.running_environ(), self.environ_with_dotenv())
        if not is_set(found, "IBEX_JOURNAL_DIR"):
            found["IBEX_JOURNAL_DIR"] = str(self.home.journal)
        return {name: value for name, value in found.items() if name in names or name in self.environ}

    def environ_with_dotenv(self) -> dict[str, str]:
        """Return the environment, with the variables of ``.env`` that it lacks. Production does not read ``.env``.

        Raises ``SettingsError`` if the file sets IBEX_ENV=production, is not UTF-8, names a file of a setting, or sets
        the destination of a secret that the environment contains.
        """
        if self.in_production:
            return dict(self.environ)
        found = self._dotenv()
        merged = layered(found, self.environ)
        if _is_production(merged):
            raise SettingsError(
                f"IBEX_ENV=production is set in {self.dotenv}, which production does not read."
                " Set it and the other settings in the environment instead."
            )
        named = sorted(found.keys() & (_setting_names() - {variable.name for _, variable in variables()}))
        if named:
            raise SettingsError(
                f"{named[0]} is in {self.dotenv}, which must not choose files whose content IBEX sends elsewhere."
                f" Set {named[0]} in the environment, or {named[0].removesuffix(SUFFIX)} in {self.dotenv}."
            )
        misdirected_secret = redirected_secret(self.environ, found, DESTINATIONS.keys() - {ONLY_CHAT_SENDS})
        if misdirected_secret is not None:
            raise SettingsError(redirected_secret_message(*misdirected_secret, self.dotenv))
        return merged

    def refuse_misdirected_token(self, secret: str | None) -> None:
        """Raise ``SettingsError`` if ``.env`` alone decides which proxy gets a token that is not in ``.env``.

        ``secret`` is the token from an option, the environment or the home folder; None if it is from ``.env``.
        """
        if secret is None or self.in_production:
            return
        misdirected_secret = redirected_secret(
            {**self.environ, ONLY_CHAT_SENDS: secret}, self._dotenv(), (ONLY_CHAT_SENDS,)
        )
        if misdirected_secret is not None:
            raise SettingsError(redirected_secret_message(*misdirected_secret, self.dotenv))

    def _dotenv(self) -> dict[str, str]:
        from dotenv import dotenv_values  # noqa: PLC0415 - keeps --help quick

        try:
            return {name: value for name, value in dotenv_values(self.dotenv, interpolate=False).items() if value}
        except UnicodeDecodeError:  # its message would contain a part of the file
            raise SettingsError(f"{self.dotenv} is not valid UTF-8. Save it as UTF-8, or remove it.") from None

    @contextmanager
    def explaining_missing_settings(self, hint: str = "") -> Iterator[None]:
        """Add a possible cause and the hint to the message of a ``MissingSettingError`` that the block raises."""
        try:
            yield
        except MissingSettingError as missing:
            message = "\n".join(filter(None, (str(missing), self.ignored_dotenv(), hint)))
            raise MissingSettingError(message, missing.names) from None

    def ignored_dotenv(self) -> str:
        """Return a message if ``.env`` exists but is not read, as in production; else an empty string."""
        if self.in_production and _is_file(Path(self.dotenv)):
            return (
                f"{self.dotenv} exists, but IBEX_ENV=production does not read it."
                " Set its variables in the environment instead."
            )
        return ""

    def unknown_settings(self) -> Sequence[str]:
        """Return a message for each variable that begins with ``IBEX_`` and is not a setting, with a similar name."""
        known = [*_setting_names(), *COMMAND_LINE]
        messages = []
        for name, value in sorted(self.environ_with_dotenv().items()):
            if name.startswith("IBEX_") and name not in known and not is_of_kubernetes(name, value):
                close = get_close_matches(name, known, 1)
                hint = f"Did you mean {close[0]}?" if close else "It has no effect. Remove it."
                messages.append(f"Unknown setting {name}. {hint}")
        return messages

    @property
    def in_production(self) -> bool:
        """Whether the environment has IBEX_ENV=production."""
        return _is_production(self.environ)

    def administer(self, work: Callable[[Administration], Awaitable[T]]) -> T:
        """Run ``work`` with the use cases of the configured servers, and return its result.

        If a required setting is not set, raises ``MissingSettingError`` in production, else ``NoInstanceError``.
        """

        async def run() -> T:
            async with self.open_administration(self.settings(), self._epoch_file()) as use_cases:
                return await work(use_cases)

        try:
            with self.explaining_missing_settings():
                return asyncio.run(run())
        except MissingSettingError as missing:
            if self.in_production:
                raise
            elsewhere = f"To use servers elsewhere, set {', '.join(missing.names)} (docs/configuration.md)."
            raise NoInstanceError(f"{self.no_instance()}\n{elsewhere}") from None

    def _epoch_file(self) -> Path | None:
        """Return the epoch's file of the instance in the home folder; None if changes go to other databases."""
        announced, used = self.home.running_environ(), self.environ_of_settings()
        is_changed = bool(announced) and all(used.get(name) == announced.get(name) for name in _CHANGED)
        return self.home.epoch if is_changed else None

    def no_instance(self) -> str:
        """Return the message that no instance runs in the home folder, with the command that starts one."""
        missing = "" if self.home.may_exist() else " (the directory does not exist)"
        start = f"`ibex --home {shlex.quote(str(self.home.path))} dev`"
        if self.home.path == Path(DEFAULT_HOME):
            start = "`ibex dev`, or `make run` in a clone of IBEX"
        return f"No IBEX instance runs in {self.home.path}{missing}. Start one: {start}."

    async def organization(self, use_cases: Administration, wanted: str | None) -> Organization:
        """Return the organization with this id or name; if None, the first one of the home folder, or the only one.

        Raises ``NotFoundError`` if there is none, and ``click.UsageError`` if several qualify.
        """
        found = await use_cases.identity.organizations()
        installation = self.home.installation()
        if wanted is None and installation is not None:
            wanted = installation.org_id
        if wanted is not None:
            return _find(found, wanted, f"There is no organization {wanted!r}. `ibex org list` lists them.")
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFoundError("There is no organization yet. Create the first one with `ibex bootstrap`.")
        names = ", ".join(organization.name for organization in found)
        raise click.UsageError(f"There are several organizations. Choose one with --org or IBEX_ORG: {names}.")

    async def agent(self, use_cases: Administration, org: Organization, wanted: str) -> NamedAgent:
        """Return the agent of the organization with this id or name. Raises ``NotFoundError`` if there is none."""
        found = await use_cases.identity.agents(org.id)
        hint = " `ibex agent list` lists its agents."
        if not found:
            hint = " Create one with `ibex agent create`."
        elif len(found) <= _MAX_LISTED_NAMES:
            hint = f" Its agents are: {', '.join(agent.name for agent in found)}."
        return _find(found, wanted, f"There is no agent {wanted!r} in the organization {org.name!r}.{hint}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # the working directory of a container may not be readable
        return False


def _setting_names() -> set[str]:
    """Return the variables of all settings, and those that name their files."""
    names = {variable.name for _, variable in variables()}
    return names | {named_by for name in names if (named_by := file_variable(name)) is not None}


def _is_production(environ: Mapping[str, str]) -> bool:
    return environ.get("IBEX_ENV", "").strip() == Environment.PRODUCTION


def _find(things: Iterable[Named], wanted: str, not_found: str) -> Named:
    for thing in things:
        if thing.name == wanted or str(thing.id) == wanted.lower():
            return thing
    raise NotFoundError(not_found)


def parse_uuid(text: str) -> UUID:
    """Parse an argument as a UUID. Raises ``click.BadParameter``."""
    try:
        return UUID(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an id. An id is a UUID.") from None
