"""Is everything as it must be? Asks each part, changes nothing, and says how to mend what is wrong.

Of Asterisk it needs no more rights than the service itself: ``DeviceStateList``, ``ShowDialPlan``
and ``Getvar`` come with the class ``reporting``.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastagi.agents.operations import QueuesUnavailable
from fastagi.ami.client import ManagerError
from fastagi.ami.queues import Queues
from fastagi.check.asterisk import (
    _lost,
    _manager,
    _variable,
    asterisk_queues,
    devices,
    loaded_dialplan,
    privileges,
)
from fastagi.check.change import unconfirmed, warnings
from fastagi.check.findings import Finding, Level
from fastagi.check.here import configuration, fallback, http, prompts, service, store
from fastagi.config import AsteriskSettings, Settings

__all__ = ["Finding", "Level", "check", "configuration", "fallback"]


async def check(
    settings: Settings, place: str, sounds: Path | None = None
) -> AsyncGenerator[Finding, None]:
    """All findings, as they come.

    place: where the configuration is, for the findings; sounds: Asterisk's folder of sounds, with
    a folder per language in it.
    """
    for finding in configuration(settings, place):
        yield finding
    for finding in warnings(settings):
        yield finding
    for finding in await asyncio.to_thread(unconfirmed, settings, place):
        yield finding
    names = [asterisk.name for asterisk in settings.asterisks]
    for finding in await asyncio.to_thread(store, settings.database, names):
        yield finding
    for finding in await service(settings):
        yield finding
    for finding in http(settings, place):
        yield finding
    for asterisk in settings.asterisks:
        named = f"{asterisk.name}: " if asterisk.name else ""
        async with aclosing(_one_asterisk(settings, asterisk, sounds)) as findings:
            async for finding in findings:
                yield replace(finding, where=named + finding.where)
    for finding in await asyncio.to_thread(fallback, settings):
        yield finding


async def _one_asterisk(
    settings: Settings, asterisk: AsteriskSettings, sounds: Path | None
) -> AsyncGenerator[Finding, None]:
    async with _manager(asterisk) as (client, refused):
        for finding in refused:
            yield finding
        if client is None:
            for finding in prompts(settings, asterisk, sounds, None):
                yield finding
            return
        queues = Queues(client)
        for part in (
            partial(privileges, asterisk, queues),
            partial(asterisk_queues, settings, client, queues),
            partial(devices, settings, asterisk, client),
            partial(loaded_dialplan, settings, asterisk, client),
        ):
            try:
                findings = await part()
            except (ManagerError, QueuesUnavailable) as error:
                findings = [_lost(asterisk, error)]
            for finding in findings:
                yield finding
        data = await _variable(client, "ASTDATADIR")
        for finding in prompts(settings, asterisk, sounds, data):
            yield finding
