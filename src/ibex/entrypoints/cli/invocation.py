"""What every command gets: the folder, the environment, and the way to the use cases."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import rich_click as click

from ibex.domain.errors import NotFoundError
from ibex.entrypoints.settings import Environment, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    import httpx

    from ibex.domain.manage_identity import NamedAgent, Organization
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.home import Home

T = TypeVar("T")
Named = TypeVar("Named", "Organization", "NamedAgent")


def _real(settings: Settings) -> AbstractAsyncContextManager[Administration]:
    from ibex.entrypoints.administration import administration  # noqa: PLC0415 - keeps --help quick

    return administration(settings)


@dataclass(slots=True)
class Invocation:
    """One run of the command line. Tests put other things into its fields."""

    home: Home
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    open_administration: Callable[[Settings], AbstractAsyncContextManager[Administration]] = _real
    transport: httpx.BaseTransport | None = None
    dotenv: str = ".env"

    def settings(self) -> Settings:
        """Return the settings: the environment's over those of what runs on the folder. Raises ``SettingsError``."""
        return Settings.load({**self.home.running_environ(), **self.environ_with_dotenv()})

    def environ_with_dotenv(self) -> dict[str, str]:
        """Return the environment over the file ``.env``, which production does not read (spec 14)."""
        if self.environ.get("IBEX_ENV") == Environment.PRODUCTION:
            return dict(self.environ)
        from dotenv import dotenv_values  # noqa: PLC0415 - keeps --help quick

        found = {name: value for name, value in dotenv_values(self.dotenv, interpolate=False).items() if value}
        return {**found, **self.environ}

    def administer(self, work: Callable[[Administration], Awaitable[T]]) -> T:
        """Run work over the servers that the settings name and return what it returns."""

        async def run() -> T:
            async with self.open_administration(self.settings()) as use_cases:
                return await work(use_cases)

        return asyncio.run(run())

    async def organization(self, use_cases: Administration, wanted: str | None) -> Organization:
        """Return the organization of this id or name; without one, the folder's first, or the only one there is.

        Raises ``NotFoundError``, and ``click.UsageError`` where there are several to choose from.
        """
        found = await use_cases.identity.organizations()
        installation = self.home.installation()
        if wanted is None and installation is not None:
            wanted = installation.org_id
        if wanted is not None:
            return _named(found, wanted, "organization")
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFoundError("There is no organization yet: ibex bootstrap makes the first.")
        raise click.UsageError(f"Which organization? --org takes one of {', '.join(o.name for o in found)}.")

    async def agent(self, use_cases: Administration, org: Organization, wanted: str) -> NamedAgent:
        """Return the organization's agent of this id or name. Raises ``NotFoundError``."""
        return _named(await use_cases.identity.agents(org.id), wanted, f"agent of {org.name}")


def _named(things: Iterable[Named], wanted: str, what: str) -> Named:
    for thing in things:
        if thing.name == wanted or str(thing.id) == wanted.lower():
            return thing
    raise NotFoundError(f"There is no {what} {wanted!r}.")


def uuid_of(text: str) -> UUID:
    """Return the UUID that a user typed. Raises ``click.BadParameter``."""
    try:
        return UUID(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an id") from None
