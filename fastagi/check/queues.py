"""Asterisk's queues: are they there, who stands in them for good, and who is stranded."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from fastagi.agents.devices import DeviceRule, resolve
from fastagi.agents.differences import number_in
from fastagi.agents.model import AgentState
from fastagi.check.asterisk import Member, Pbx
from fastagi.check.findings import Finding, ok, problem, some, warning
from fastagi.check.here import loopback
from fastagi.config import Settings

_ABOUT: Final = "queues"
IN_QUEUES_CONF: Final = "queues.conf [{}]"
IN_A_TABLE: Final = "the realtime table of queue members (extconfig.conf: queue_members)"


async def queues(settings: Settings, pbx: Pbx, agents: Sequence[AgentState]) -> list[Finding]:
    """``agents``: those logged in on this Asterisk."""
    found = await pbx.queues()
    file = Path(await pbx.folder()) / "queues.conf" if loopback(pbx.asterisk.host) else None
    there = {name.casefold() for name in found.names}
    missing = {q.name.casefold(): q.name for q in settings.queues if q.name.casefold() not in there}
    findings = [_missing(name, found.names, agents) for name in missing.values()]
    findings += _nowhere(agents, missing)
    findings += _for_good(settings, found.members, agents, file)
    if not missing:
        findings.insert(0, ok(_ABOUT, f"Asterisk has all {len(settings.queues)}", "queues.conf"))
    return findings


def _missing(name: str, there: Sequence[str], agents: Iterable[AgentState]) -> Finding:
    stranded = [
        agent.number
        for agent in agents
        if any(m.queue.casefold() == name.casefold() for m in agent.memberships)
    ]
    whom = f"; logged in without it: {some(stranded)}" if stranded else ""
    return problem(
        _ABOUT,
        f"Asterisk has no queue {name!r}; it has {some(there) or 'none at all'}{whom}",
        "queues.conf",
        f"; queues.conf (`fastagi dialplan --queues` prints more to begin with):\n[{name}]\n"
        "strategy = leastrecent\n"
        "; then: asterisk -rx 'queue reload all'. A realtime queue is seen once it was used",
    )


def _nowhere(agents: Iterable[AgentState], missing: Mapping[str, str]) -> Iterator[Finding]:
    """Logged in, and in no queue; those whose queue is missing were named with it."""
    idle = [
        agent.number
        for agent in agents
        if not agent.joined and not any(m.queue.casefold() in missing for m in agent.memberships)
    ]
    if idle:
        yield warning(
            _ABOUT,
            f"logged in, and in no queue, so they get no calls: {some(idle)}",
            "fastagi agents",
            "# they join one of theirs with the code `queue`; who has none needs\n"
            "queues: [NAME, …]",
        )


# -- members who are no dynamic ones -------------------------------------------------------------


def _for_good(
    settings: Settings, members: Iterable[Member], agents: Iterable[AgentState], file: Path | None
) -> Iterator[Finding]:
    """Static and realtime members that are, or will be, an agent's: he cannot be taken out."""
    rules = settings.device_rules()
    configured = {queue.name.casefold() for queue in settings.queues}
    sitting = {a.session.device.interface.casefold(): a.number for a in agents if a.session}
    for member in members:
        if member.kind == "dynamic" or member.queue.casefold() not in configured:
            continue
        agent = number_in(member.name) or sitting.get(member.interface.casefold(), "")
        if not agent and not any(rule.extension_of(member.interface) for rule in rules):
            continue
        who = f"{member.interface} (agent {agent})" if agent else member.interface
        where, mend = place_of(member, file)
        kind = "static or realtime" if IN_A_TABLE in where else "static"
        yield warning(
            _ABOUT,
            f"{who} is a {kind} member of {member.queue}: whoever logs in there cannot be "
            "logged off from this queue, only paused in it",
            where,
            mend,
        )


def place_of(member: Member, file: Path | None) -> tuple[str, str]:
    """Where the member stands, and how it is taken away."""
    reload = "asterisk -rx 'queue reload members'"
    line = _line(file, member) if file is not None else None
    if line:
        comment = f"sed -i '{line[1]}s/^/;/' {shlex.quote(str(line[0]))}   # {line[2]}"
        return f"{line[0]}:{line[1]} [{member.queue}]", f"{comment}\n{reload}"
    queue, interface = (v.replace("'", "''") for v in (member.queue, member.interface))
    return (
        f"{IN_QUEUES_CONF.format(member.queue)}, or {IN_A_TABLE}",
        f"; {IN_QUEUES_CONF.format(member.queue)}: take out\n"
        f"; member => {member.interface}\n; then: {reload}\n; or in the realtime table:\n"
        f"DELETE FROM queue_members\nWHERE queue_name = '{queue}' AND interface = '{interface}';",
    )


_SECTION: Final = re.compile(r"\s*\[([^\]]+)\]")
_MEMBER: Final = re.compile(r"\s*member\s*=>?\s*([^,;]+)", re.IGNORECASE)
_INCLUDE: Final = re.compile(r"\s*#(?:try)?include\s+[\"<]?([^\">;]+)", re.IGNORECASE)


def _line(file: Path, member: Member, depth: int = 0) -> tuple[Path, int, str] | None:
    """File, number and text of the line that has the member; None when it cannot be found."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    section = ""
    for number, text in enumerate(lines, 1):
        if match := _SECTION.match(text):
            section = match[1]
        elif match := _MEMBER.match(text):
            same = match[1].strip().casefold() == member.interface.casefold()
            if same and section.casefold() == member.queue.casefold():
                return file, number, text.strip()
        elif depth < 3 and (match := _INCLUDE.match(text)):
            for included in sorted(file.parent.glob(match[1].strip().lstrip("/"))):
                if found := _line(included, member, depth + 1):
                    return found
    return None


# -- logged in where the configuration puts nobody ------------------------------------------------


def unmatched(
    rules: Sequence[DeviceRule], agents: Iterable[AgentState], asterisk: str
) -> Iterator[Finding]:
    """Agents logged in at an extension that no rule makes a member of, or another one."""
    places = []
    for agent in agents:
        if agent.session is None:
            continue
        device = agent.session.device
        now = resolve(rules, device.extension, asterisk)
        if now is None or now.key != device.key:
            places.append(f"{agent.number} at {device.extension} ({device.interface})")
    if places:
        yield warning(
            "devices",
            f"logged in where no device rule puts anybody any more: {some(places)}; once logged "
            "off, they cannot log in there again",
            "devices",
            "# bring the rule back, or log them off:\n"
            "devices:\n  - {match: '10XX', context: phones, interface: 'PJSIP/{extension}'}",
        )
