"""The manager link of the check, and what Asterisk is asked over it. Each thing is asked once."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastagi.ami.client import Client, Refused, Response
from fastagi.ami.queues import Queues
from fastagi.check.extensions import Dialplan
from fastagi.check.findings import Finding, ok, one_line, problem, warning
from fastagi.check.here import loopback
from fastagi.config import AsteriskSettings

LOGIN_WITHIN: Final = 8.0  # seconds; a refusal takes Asterisk one
# Technologies whose endpoints Asterisk lists among the device states.
LISTED: Final = frozenset(("PJSIP", "SIP", "IAX2", "DAHDI", "SCCP", "SKINNY"))
# What is put into a function's brackets. Everything else Asterisk could read as more than one.
_SAYABLE: Final = re.compile(r"[A-Za-z0-9_.+@:/*#-]+", re.ASCII)

PROBE: Final = "fastagi-check"
PROBE_INTERFACE: Final = f"Local/{PROBE}@{PROBE}"  # of no extension: it could never ring
HEARD: Final = ("QueueMemberAdded", "QueueMemberPause", "QueueMemberRemoved")
INVALID: Final = "4"  # devicestate.h: AST_DEVICE_INVALID


@dataclass(frozen=True, slots=True)
class Member:
    """One member of one queue. ``kind``: ``dynamic``, or ``static``, as Asterisk's manager calls a
    realtime one as well;
    ``invalid``: Asterisk knows no device behind the state interface, and never rings it."""

    queue: str
    name: str
    interface: str
    state_interface: str
    kind: str
    invalid: bool


@dataclass(frozen=True, slots=True)
class InQueues:
    """What Asterisk's queues hold. ``idle``: queues without members and callers."""

    names: tuple[str, ...]
    members: tuple[Member, ...]
    idle: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something that can call. ``context`` is "" where Asterisk does not tell it.

    ``trunk``: it looks like a line to the outside rather than like a phone.
    """

    device: str  # PJSIP/alice-desk
    name: str
    context: str = ""
    caller_id: str = ""  # the number of its caller ID
    trunk: bool = False


class Pbx:
    """One Asterisk, asked for each thing once."""

    def __init__(self, asterisk: AsteriskSettings, client: Client) -> None:
        self.asterisk = asterisk
        self.client = client
        self.actions = Queues(client)
        self.dialplan = Dialplan(self._show)
        self.heard: set[str] = set()  # names of events about the probe
        self._arrived = asyncio.Event()
        self._queues: InQueues | None = None
        self._states: dict[str, str] | None = None
        self._endpoints: list[Endpoint] | None = None

    def take(self, name: bytes, raw: bytes) -> None:
        """An event, for ``Client(on_raw=…)``."""
        if PROBE_INTERFACE.encode() in raw:
            self.heard.add(name.decode("ascii", "replace"))
            if self.heard.issuperset(HEARD):
                self._arrived.set()

    async def wait_heard(self) -> None:
        """Until every event about the probe has come, or none can be expected any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.asterisk.timeout.total_seconds()):
                await self._arrived.wait()

    async def queues(self) -> InQueues:
        if self._queues is None:
            items = await self.client.list_action(
                {"Action": "QueueStatus"}, ("QueueParams", "QueueMember"), "QueueStatusComplete"
            )
            names, members, calls = [], [], set()
            for item in items:
                queue = item.get("Queue", "")
                if item.get("Event") == "QueueParams":
                    names.append(queue)
                    if item.get("Calls", "0") != "0":
                        calls.add(queue)
                elif item.get("Location"):
                    interface = item["Location"]
                    members.append(
                        Member(
                            queue,
                            item.get("Name", ""),
                            interface,
                            item.get("StateInterface") or interface,
                            item.get("Membership", ""),
                            item.get("Status") == INVALID,
                        )
                    )
            busy = calls | {member.queue for member in members}
            names = sorted(filter(None, names))
            idle = tuple(name for name in names if name not in busy)
            self._queues = InQueues(tuple(names), tuple(members), idle)
        return self._queues

    async def states(self) -> dict[str, str]:
        """Devices that Asterisk knows, and their states. Raises Refused."""
        if self._states is None:
            items = await self.client.list_action(
                {"Action": "DeviceStateList"}, "DeviceStateChange", "DeviceStateListComplete"
            )
            self._states = {item.get("Device", ""): item.get("State", "") for item in items}
        return self._states

    async def endpoints(self, also: Iterable[str] = ()) -> list[Endpoint]:
        """Those that Asterisk lists, and those of ``also`` that exist. Raises Refused.

        One that was made after Asterisk's start is listed when it has registered.
        """
        if self._endpoints is None:
            found = []
            devices = [
                device
                for device, state in (await self.states()).items()
                if self.listed(device)
                and state != "INVALID"  # somebody asked for one that does not exist
            ]
            unlisted = {device for device in also if self.listed(device)} - {*devices}
            states = await self.device_states(sorted(unlisted))
            devices += [device for device, state in states.items() if state != "INVALID"]
            asked = [device for device in devices if _SAYABLE.fullmatch(device.partition("/")[2])]
            wanted: list[str] = []
            for device in asked:
                technology, _, name = device.partition("/")
                if technology.upper() == "PJSIP":
                    of = ("context", "callerid", "auth", "outbound_auth")
                    wanted += [f"PJSIP_ENDPOINT({name},{what})" for what in of]
                elif technology.upper() == "SIP":
                    wanted += [f"SIPPEER({name},{what})" for what in ("context", "callerid_num")]
            values = dict(zip(wanted, await self.variables(wanted), strict=True))

            def value(function: str) -> str:
                return values.get(function) or ""

            for device in devices:
                name = device.partition("/")[2]
                context = value(f"PJSIP_ENDPOINT({name},context)")
                caller_id = value(f"PJSIP_ENDPOINT({name},callerid)")
                found.append(
                    Endpoint(
                        device,
                        name,
                        context or value(f"SIPPEER({name},context)"),
                        _number(caller_id or value(f"SIPPEER({name},callerid_num)")),
                        bool(value(f"PJSIP_ENDPOINT({name},outbound_auth)"))
                        or (bool(context) and not value(f"PJSIP_ENDPOINT({name},auth)")),
                    )
                )
            self._endpoints = found
        return self._endpoints

    @staticmethod
    def listed(device: str) -> bool:
        technology, slash, name = device.partition("/")
        return technology.upper() in LISTED and bool(slash and name)

    async def variable(self, name: str) -> str | None:
        """A global variable or function of Asterisk's; None when it is not told."""
        return (await self.variables([name]))[0]

    async def folder(self) -> str:
        """Asterisk's folder of configurations."""
        return await self.variable("ASTETCDIR") or "/etc/asterisk"

    async def variables(self, names: Sequence[str]) -> list[str | None]:
        answers = await self.client.actions([{"Action": "Getvar", "Variable": n} for n in names])
        return [
            answer.headers.get("Value") or None
            if isinstance(answer, Response) and answer.success
            else None
            for answer in answers
        ]

    async def device_states(self, devices: Iterable[str]) -> dict[str, str]:
        """What ``DEVICE_STATE`` says of each, of those that it says something of."""
        asked = [device for device in dict.fromkeys(devices) if _SAYABLE.fullmatch(device)]
        values = await self.variables([f"DEVICE_STATE({device})" for device in asked])
        return {device: state for device, state in zip(asked, values, strict=True) if state}

    async def hints(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The devices of the hint at each (extension, context); "" where there is no hint.

        What Asterisk does not tell is left out.
        """
        asked = list(dict.fromkeys(places))
        answers = await self.client.actions(
            [{"Action": "ExtensionState", "Exten": e, "Context": c} for e, c in asked]
        )
        return {
            place: "" if answer.headers.get("Status") == "-1" else answer.headers.get("Hint", "")
            for place, answer in zip(asked, answers, strict=True)
            if isinstance(answer, Response) and "Status" in answer.headers
        }

    async def all_hints(self) -> dict[tuple[str, str], str]:
        """(extension, context) -> devices, of all hints but patterns."""
        try:
            items = await self.client.list_action(
                {"Action": "ExtensionStateList"}, "ExtensionStatus", "ExtensionStateListComplete"
            )
        except Refused:
            return {}
        return {
            (item.get("Exten", ""), item.get("Context", "")): item.get("Hint", "")
            for item in items
            if not item.get("Exten", "").startswith("_")
        }

    async def _show(self, context: str) -> list[dict[str, str]] | str:
        """Rows of the loaded dialplan; or what Asterisk says instead."""
        if not _SAYABLE.fullmatch(context):
            return "no name of a context"
        try:
            return await self.client.list_action(
                {"Action": "ShowDialPlan", "Context": context},
                "ListDialplan",
                "ShowDialPlanComplete",
            )
        except Refused as error:
            return one_line(error)


def _number(caller_id: str) -> str:
    """``"Alice" <201>`` -> ``201``"""
    match = re.search(r"<([^<>]*)>\s*$", caller_id)
    number = (match[1] if match else caller_id).strip()
    return "" if number.lower() == "unknown" else number  # Asterisk's word for none


# -- the link ------------------------------------------------------------------------------------


@asynccontextmanager
async def manager(
    asterisk: AsteriskSettings, *, service_answers: bool
) -> AsyncIterator[tuple[Pbx | None, list[Finding]]]:
    """``service_answers``: the service runs, and its own link is up."""
    pbx: Pbx

    def take(name: bytes, raw: bytes) -> None:
        pbx.take(name, raw)

    client = Client(
        asterisk.host,
        asterisk.port,
        asterisk.username,
        asterisk.secret.get_secret_value(),
        events="agent",
        event_names=(),
        raw_names=HEARD,
        on_raw=take,
        action_timeout=asterisk.timeout.total_seconds(),
    )
    pbx = Pbx(asterisk, client)
    await client.start()
    try:
        waited = 0.0
        while not client.connected and not client.last_error and waited < LOGIN_WITHIN:
            await asyncio.sleep(0.02)
            waited += 0.02
        if client.connected:
            where = f"{asterisk.host}:{asterisk.port}"
            yield pbx, [ok("manager", f"logged in as {asterisk.username}", where)]
        else:
            reason = client.last_error or "no answer"
            yield None, [not_connected(asterisk, reason, service_answers=service_answers)]
    finally:
        await client.close()


_RELOAD: Final = "asterisk -rx 'manager reload'"
# What the C libraries say of a name that is in no DNS and no /etc/hosts.
_NO_NAME: Final = ("name or service", "name resolution", "nodename", "no address associated")


def _below(asterisk: AsteriskSettings, line: str) -> str:
    name = asterisk.username
    return f"; manager.conf, below the section:\n[{name}](+)\n{line}\n; then: {_RELOAD}"


def not_connected(asterisk: AsteriskSettings, reason: str, *, service_answers: bool) -> Finding:
    about, where = "manager", f"{asterisk.host}:{asterisk.port}"
    reason = one_line(reason)
    lowered = reason.lower()
    if "already in use" in lowered and "refused: " in lowered:
        holder = "the running service" if service_answers else "another program"
        finding = warning if service_answers else problem
        return finding(
            about,
            f"Asterisk lets the user {asterisk.username!r} in once only (allowmultiplelogin = no), "
            f"and {holder} is in: what Asterisk has cannot be looked at ({reason})",
            f"manager.conf [{asterisk.username}]",
            _below(asterisk, "allowmultiplelogin = yes"),
        )
    if "refused: " in lowered:
        return problem(
            about,
            f"Asterisk refuses the user {asterisk.username!r} ({reason})",
            where,
            f"# manager.conf: a section [{asterisk.username}] with the secret that the "
            "configuration has as asterisk.secret, and with this machine's address in permit;\n"
            "# this prints one:\n"
            f"fastagi dialplan --manager\n"
            f"# then:\n{_RELOAD}",
        )
    if any(
        text in lowered for text in ("name or service", "name resolution", "nodename", "getaddr")
    ):
        return problem(
            about,
            f"the name {asterisk.host!r} cannot be looked up ({reason})",
            "asterisk.host",
            f"getent hosts {asterisk.host}   # prints nothing? Then write the address itself",
        )
    if "no connection within" in lowered or "unreachable" in lowered or "no route" in lowered:
        return problem(
            about,
            f"{asterisk.host} does not answer ({reason})",
            where,
            f"# is the machine up, and does a firewall let port {asterisk.port} through?\n"
            f"nc -zv {asterisk.host} {asterisk.port}",
        )
    bind = asterisk.host if loopback(asterisk.host) and asterisk.host != "localhost" else ""
    bind = bind or ("127.0.0.1" if loopback(asterisk.host) else "0.0.0.0")
    return problem(
        about,
        f"no manager interface answers ({reason})",
        where,
        "; is Asterisk running? manager.conf:\n"
        f"[general]\nenabled = yes\nport = {asterisk.port}\nbindaddr = {bind}\n"
        f"; then: {_RELOAD}",
    )


def lost(asterisk: AsteriskSettings, error: Exception) -> Finding:
    return problem(
        "manager",
        f"the link was lost while asking ({one_line(error)})",
        f"{asterisk.host}:{asterisk.port}",
        "# look at Asterisk's log, and run this again",
    )


def untold(asterisk: AsteriskSettings, about: str, what: str, error: Exception) -> Finding:
    reason = one_line(error)
    if not reason.startswith("Permission denied"):
        return warning(
            about,
            f"{what} cannot be told ({reason})",
            "modules.conf",
            "asterisk -rx 'module load res_manager_devicestate.so'",
        )
    return warning(
        about,
        f"{what} cannot be told ({reason})",
        f"manager.conf [{asterisk.username}]",
        _below(asterisk, "write = agent,user,call,reporting"),
    )
