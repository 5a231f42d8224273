"""Is everything as it must be? Asks each part, and says how to mend what is wrong.

Nothing is changed, but for the moment in which a paused member stands in a queue, see
``rights.hearing``.

Of Asterisk it needs no more rights than the service itself: ``DeviceStateList``, ``ShowDialPlan``
and ``Getvar`` come with the class ``reporting``.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastagi.agents.model import AgentState
from fastagi.agents.operations import QueuesUnavailable
from fastagi.ami.client import ManagerError
from fastagi.check.asterisk import Pbx, lost, manager
from fastagi.check.change import unconfirmed, warnings
from fastagi.check.devices import devices
from fastagi.check.findings import Finding, Level, Unmatched, one_line, problem
from fastagi.check.here import (
    Mends,
    configuration,
    fallback,
    http,
    loopback,
    prompts,
    service,
    store,
)
from fastagi.check.loaded import loaded
from fastagi.check.queues import queues, unmatched
from fastagi.check.rights import hearing, modules, privileges
from fastagi.config import AsteriskSettings, Settings

__all__ = ["Finding", "Level", "check", "configuration", "fallback"]


async def check(
    settings: Settings, place: str, sounds: Path | None = None, *, probe: bool = True
) -> AsyncGenerator[Finding, None]:
    """All findings, as they come.

    place: where the configuration is, for the findings; sounds: Asterisk's folder of sounds, with
    a folder per language in it; probe: see ``rights.hearing``.
    """
    for finding in configuration(settings, place):
        yield finding
    for finding in warnings(settings):
        yield finding
    for finding in await asyncio.to_thread(unconfirmed, settings, place):
        yield finding
    names = [asterisk.name for asterisk in settings.asterisks]
    answers, linked = await service(settings)
    running_here = linked is not None and loopback(settings.fastagi.advertised.host)
    looked_at = partial(
        store, settings.database, names, running=linked is not None, running_here=running_here
    )
    findings, agents = await asyncio.to_thread(looked_at)
    for finding in (*findings, *answers, *http(settings, place)):
        yield finding
    matched: set[str] = set()  # rules that fit a phone somewhere, as they stand in findings
    unmatched_at: dict[str, dict[str, Finding]] = {}  # rule -> where it fits none, and what is said
    for asterisk in settings.asterisks:
        here = [a for a in agents if a.session and a.session.device.asterisk == asterisk.name]
        looked = _one_asterisk(
            settings, asterisk, here, Mends(place), sounds, linked=linked, probe=probe
        )
        named = f"{asterisk.name}: " if asterisk.name else ""
        async with aclosing(looked) as found:
            async for finding in found:
                if isinstance(finding, Unmatched) and named:
                    unmatched_at.setdefault(finding.where, {})[asterisk.name] = finding
                    continue
                if finding.about == "devices" and finding.level is Level.OK:
                    matched.add(finding.where)
                yield replace(finding, where=named + finding.where)
    for rule, said in unmatched_at.items():
        # One that could not be asked may have the phones.
        if rule not in matched and len(said) == len(names):
            yield replace(next(iter(said.values())), where=f"{', '.join(said)}: {rule}")
    for finding in await asyncio.to_thread(fallback, settings):
        yield finding


async def _one_asterisk(
    settings: Settings,
    asterisk: AsteriskSettings,
    agents: Sequence[AgentState],
    mends: Mends,
    sounds: Path | None,
    *,
    linked: frozenset[str] | None,
    probe: bool,
) -> AsyncGenerator[Finding, None]:
    """``agents``: those logged in there. ``linked``: the Asterisks that the running service is
    connected to; None: it does not run."""
    for finding in unmatched(settings.device_rules(), agents, asterisk.name):
        yield finding
    in_use = linked is not None and asterisk.name in linked
    async with manager(asterisk, service_answers=in_use) as (pbx, refused):
        for finding in refused:
            yield finding
        if pbx is not None and linked is not None and not in_use:
            yield problem(
                "service",
                "it runs, and is not connected to this Asterisk: no code works here",
                f"{asterisk.host}:{asterisk.port}",
                "# see its log: it says why; it tries again by itself",
            )
        data = None
        if pbx is not None:
            try:
                for about, look in _looks(settings, pbx, agents, mends, probe=probe):
                    for finding in await _guarded(about, look):
                        yield finding
                data = await pbx.variable("ASTDATADIR")
            except (ManagerError, QueuesUnavailable) as error:
                yield lost(asterisk, error)  # once: nothing more can be asked
        for finding in prompts(settings, asterisk, sounds, data):
            yield finding


_Look = Callable[[], Awaitable[Iterable[Finding]]]


def _looks(
    settings: Settings, pbx: Pbx, agents: Sequence[AgentState], mends: Mends, *, probe: bool
) -> list[tuple[str, _Look]]:
    """What is looked at, by its name in findings."""
    return [
        ("privileges", partial(privileges, pbx)),
        *([("privileges", partial(hearing, settings, pbx))] if probe else []),
        ("modules", partial(modules, settings, pbx)),
        ("queues", partial(queues, settings, pbx, agents)),
        ("devices", partial(devices, settings, pbx, agents)),
        ("dialplan", partial(loaded, settings, pbx, mends)),
    ]


async def _guarded(about: str, look: _Look) -> Iterable[Finding]:
    """An answer that nobody thought of spoils one look, and not the others."""
    try:
        return await look()
    except (ManagerError, QueuesUnavailable):
        raise
    except Exception as error:
        return [
            problem(
                about,
                f"Asterisk's answer cannot be understood ({type(error).__name__}: "
                f"{one_line(error)[:200]})",
                "Asterisk's manager interface",
                "# this is a mistake of fastagi's: please report it, with Asterisk's version",
            )
        ]
