"""Where the store and the Asterisks differ, and what the service would do about it.

Looks from outside, through the store's views and a manager link of its own, beside a running
service or without one; changes nothing. And the other way: asks the running service to compare
and repair now.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastagi.agents.devices import device_key
from fastagi.agents.differences import Difference, Kind, differences, number_in
from fastagi.agents.operations import QueuesUnavailable
from fastagi.agents.reconciler import started_note
from fastagi.agents.repairs import ADOPTED, REPAIRED_AS
from fastagi.ami.client import Client
from fastagi.ami.queues import Queues
from fastagi.config import Settings
from fastagi.config.settings import AsteriskSettings
from fastagi.contract import LINKED, LINKS, RECONCILE, RELOAD, RELOADED, REPAIRS, Variable
from fastagi.dial import Channel, Dialled, Prepared, ServiceAway, dial, headers
from fastagi.store import Reading

LOGIN_WITHIN: Final = 8.0  # seconds; a refusal takes Asterisk one
ON_ITS_WAY: Final = 0.5  # seconds until what differs is looked at once more
TOLD_WITHIN: Final = 3.0  # seconds; it needs to ask nobody
RELOADED_WITHIN: Final = 110.0  # seconds; a call to the service may last 120
REPAIRED_WITHIN: Final = 600.0  # seconds; fifty thousand members take a minute
TAKEN_AS_NOTED: Final = "taken from the phone's note"
UNAVAILABLE: Final = "UNAVAILABLE: "  # how an answer without repairs begins
NOTHING: Final = "nothing"  # the answer when there was none to do


class Away(Exception):
    """Asterisk or the service cannot be asked; why, in one line."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference, and what the service would do about it."""

    asterisk: str  # the Asterisk's name, "" where there is only one
    difference: Difference
    repair: str

    def as_dict(self) -> dict[str, str]:
        found = self.difference
        return {
            "asterisk": self.asterisk,
            "agent": found.agent,
            "queue": found.queue,
            "interface": found.interface,
            "difference": found.kind.value,
            "stored": found.stored or "not in the queue",
            "reported": found.reported or "not in the queue",
            "repair": self.repair,
        }


def judged(
    found: Iterable[Difference], asterisk: str, *, restarted: bool, noted: Collection[str] = ()
) -> list[Drift]:
    """Pure. ``restarted``: Asterisk has, since the service last spoke to it; then the store wins.

    ``noted``: the ``Device.key`` of phones that were used while the service was away.
    """

    def repair(difference: Difference) -> str:
        # The service takes the notes first, before it compares.
        if device_key(asterisk, difference.interface) in noted:
            return TAKEN_AS_NOTED
        if restarted or difference.kind is Kind.ELSEWHERE:
            return REPAIRED_AS[difference.kind]
        return ADOPTED

    ordered = sorted(found, key=lambda d: (len(d.agent), d.agent, d.queue, d.kind))
    return [Drift(asterisk, difference, repair(difference)) for difference in ordered]


# -- looking


async def look(
    views: Reading, asterisk: AsteriskSettings, asterisks: Collection[str]
) -> list[Drift]:
    """What differs on this Asterisk, by agent and queue. ``asterisks``: the names of all that the
    service has.

    A change on its way would differ too, for a moment: so what does is looked at once more.
    Raises Away, and StoreUnavailable.
    """
    async with _link(asterisk) as client:
        queues = Queues(client, asterisk.name, reads_only=True)
        try:
            started = await queues.started_at()
            if not (first := set(await _compare(views, queues, asterisks))):
                return []
            await asyncio.sleep(ON_ITS_WAY)
            again = await _compare(views, queues, asterisks)
            found = [difference for difference in again if difference in first]
            noted = {device_key(queues.asterisk, n.interface) for n in await queues.notes()}
        except QueuesUnavailable as error:
            raise Away(f"{_place(asterisk)}: {_one_line(error)}") from error
    before = await asyncio.to_thread(views.note, started_note(asterisk.name))
    return judged(
        found,
        asterisk.name,
        restarted=before is not None and before != started,
        noted=noted,
    )


async def _compare(views: Reading, queues: Queues, asterisks: Collection[str]) -> list[Difference]:
    """As the service does it, see ``fastagi.agents.comparing``."""
    names = await asyncio.to_thread(views.queue_names)
    agents = await asyncio.to_thread(views.logged_in_states)
    reported = await queues.members(queues=[name for name, _ in names.values()])
    named = {number_in(m.name) for m in reported} - {agent.number for agent in agents} - {""}
    more = await asyncio.to_thread(views.states, sorted(named))
    return differences([*agents, *more.values()], reported, queues.asterisk, names, asterisks)


@asynccontextmanager
async def _link(asterisk: AsteriskSettings) -> AsyncIterator[Client]:
    client = Client(
        asterisk.host,
        asterisk.port,
        asterisk.username,
        asterisk.secret.get_secret_value(),
        events="off",
        action_timeout=asterisk.timeout.total_seconds(),
    )
    await client.start()
    try:
        waited = 0.0
        while not client.connected and not client.last_error and waited < LOGIN_WITHIN:
            await asyncio.sleep(0.02)
            waited += 0.02
        if not client.connected:
            raise Away(f"{_place(asterisk)}: {_one_line(client.last_error or 'no answer')}")
        yield client
    finally:
        await client.close()


def _place(asterisk: AsteriskSettings) -> str:
    return f"Asterisk {asterisk.name} at {asterisk.host}:{asterisk.port}".replace("  ", " ")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


# -- asking the service


async def reload_now(settings: Settings, *, confirm: bool) -> tuple[str, list[str]]:
    """Has the running service read its configuration again: what became of it, as
    ``fastagi.reload.Outcome`` has it, and lines for the admin. Raises Away."""
    host, port = settings.fastagi.advertised
    channel = Channel()
    call = Dialled(RELOAD, "", "confirm" if confirm else "", "reload")
    request = headers(call, "FastAGI/reload", (), host=host)
    try:
        await dial(
            host, port, request, channel, Prepared(""), lambda *_: None, silence=RELOADED_WITHIN
        )
    except ServiceAway as error:
        raise Away(_one_line(error)) from error
    if not (outcome := channel.variables.get(RELOADED, "")):
        status = channel.variables.get(Variable.STATUS, "")
        raise Away(
            f"{host}:{port} did not say what it did {f'({status})' if status else ''}".strip()
        )
    lines: list[str] = []
    while line := channel.variables.get(f"{RELOADED}_{len(lines) + 1}"):
        lines.append(line)
    return outcome, lines


_COUNT = re.compile(r"([0-9]+) ([^,]+)")


async def linked(settings: Settings) -> frozenset[str]:
    """The names of the Asterisks to which the running service is connected. Raises Away, also when
    it cannot use its store."""
    host, port = settings.fastagi.advertised
    channel = Channel()
    request = headers(Dialled(LINKS, "", "", "links"), "FastAGI/links", (), host=host)
    try:
        await dial(host, port, request, channel, Prepared(""), lambda *_: None, silence=TOLD_WITHIN)
    except ServiceAway as error:
        raise Away(_one_line(error)) from error
    words = channel.variables.get(LINKED, "").split()
    if not words:
        raise Away(f"{host}:{port} did not say which Asterisks are connected")
    if "store=usable" not in words:
        raise Away("the service cannot use its database")
    return frozenset(
        word.removeprefix("asterisk=") for word in words if word.startswith("asterisk=")
    )


async def repair_now(settings: Settings) -> dict[str, int]:
    """Has the running service compare and repair; how many repairs of each kind it made.

    It may take minutes where there are thousands. Raises Away.
    """
    host, port = settings.fastagi.advertised
    channel = Channel()
    request = headers(Dialled(RECONCILE, "", "", "reconcile"), "FastAGI/reconcile", (), host=host)
    try:
        await dial(
            host, port, request, channel, Prepared(""), lambda *_: None, silence=REPAIRED_WITHIN
        )
    except ServiceAway as error:
        raise Away(_one_line(error)) from error
    answer = channel.variables.get(REPAIRS, "")
    if answer.startswith(UNAVAILABLE):
        raise Away(f"the service cannot: {_one_line(answer.removeprefix(UNAVAILABLE))}")
    if answer == NOTHING:
        return {}
    counts = {kind: int(number) for number, kind in _COUNT.findall(answer)}
    if not counts:
        status = channel.variables.get(Variable.STATUS, "")
        raise Away(
            f"{host}:{port} did not say what it did {f'({status})' if status else ''}".strip()
        )
    return counts
