"""What the manager user may do and hear, and which modules Asterisk has loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastagi import dialplan
from fastagi.ami.client import ManagerError, Response
from fastagi.ami.queues import NEEDED, NOT_LOADED
from fastagi.check.asterisk import HEARD, PROBE, PROBE_INTERFACE, Pbx
from fastagi.check.findings import Finding, ok, problem, warning
from fastagi.config import Settings
from fastagi.contract import FEATURES_CONTEXT

WRITE: Final = ",".join(dict.fromkeys(cls for cls, _ in NEEDED.values() if cls))


async def privileges(pbx: Pbx) -> list[Finding]:
    about, name = "privileges", pbx.asterisk.username
    found = await pbx.actions.privileges()
    findings = []
    if found.missing:
        purposes = dict.fromkeys(
            NEEDED[action][1] for actions in found.missing.values() for action in actions
        )
        missing = ", ".join(repr(cls) for cls in found.missing)
        classes = "write class" if len(found.missing) == 1 else "write classes"
        are = "is" if len(found.missing) == 1 else "are"
        findings.append(
            problem(
                about,
                f"{classes} {missing} {are} missing: without it the service cannot "
                f"{', '.join(purposes)}",
                f"manager.conf [{name}]",
                _allowed(name, f"write = {WRITE}"),
            )
        )
    if found.unknown:
        findings.append(
            problem(
                about,
                f"this Asterisk does not know {', '.join(found.unknown)}",
                "modules.conf",
                _load("app_queue"),
            )
        )
    return findings or [ok(about, f"may do all that is needed ({WRITE})", f"[{name}]")]


def _allowed(name: str, line: str) -> str:
    return (
        f"; manager.conf, below the section:\n[{name}](+)\n{line}\n"
        "; then: asterisk -rx 'manager reload', and a restart of the service"
    )


def _load(*modules: str) -> str:
    lines = "".join(f"load = {module}.so\n" for module in modules)
    commands = "; ".join(f"asterisk -rx 'module load {module}.so'" for module in modules)
    return f"; modules.conf, instead of a noload:\n{lines}; then: {commands}"


# -- does it hear what happens in the queues? ----------------------------------------------------


async def hearing(settings: Settings, pbx: Pbx) -> list[Finding]:
    """Adds a paused member to a queue, takes it out again, and listens.

    Nothing else proves it: Asterisk tells nobody its own read classes, nor whether an eventfilter
    takes away what they allow. The member has no extension behind it and is paused, in a queue
    without members if there is one, for about a millisecond.
    """
    about, name = "privileges", pbx.asterisk.username
    queues = await pbx.queues()
    known = {queue.casefold(): queue for queue in queues.names}
    ours = [known[q.name.casefold()] for q in settings.queues if q.name.casefold() in known]
    if not ours:
        return []  # told elsewhere
    queue = next((queue for queue in ours if queue in queues.idle), ours[0])
    member = {"Queue": queue, "Interface": PROBE_INTERFACE}
    # In one write: the member is gone again even if this process ends here.
    answers = await pbx.client.actions(
        [
            {"Action": "QueueAdd", **member, "MemberName": PROBE, "Paused": "true"},
            {"Action": "QueuePause", **member, "Paused": "true", "Reason": "check"},
            {"Action": "QueueRemove", **member},
        ]
    )
    failed = [
        answer
        for answer in answers
        if isinstance(answer, ManagerError) or (isinstance(answer, Response) and not answer.success)
    ]
    if failed:
        return []  # no right, no module: told elsewhere
    await pbx.wait_heard()
    deaf = [event for event in HEARD if event not in pbx.heard]
    if not deaf:
        return [ok(about, "hears what happens in the queues (agent)", f"[{name}]")]
    where = f"manager.conf [{name}]"
    what = "so it learns late, or never, what is done in the queues by others than itself"
    if len(deaf) == len(HEARD):
        return [
            problem(
                about,
                "Asterisk tells this user nothing of its queues: the read class 'agent' is "
                f"missing, or an eventfilter hides the events; {what}",
                where,
                _allowed(name, "read = agent\n; and no eventfilter that hides QueueMember events"),
            )
        ]
    return [
        problem(
            about,
            f"an eventfilter of this user hides {', '.join(deaf)}: {what}",
            where,
            "; manager.conf: take out the eventfilter that hides these events\n"
            "; then: asterisk -rx 'manager reload', and a restart of the service",
        )
    ]


# -- modules -------------------------------------------------------------------------------------

_SILENCE: Final = "whoever dials a code hears nothing"


@dataclass(frozen=True, slots=True)
class _Module:
    """``asks``: a function of this module, and an answer it gives ("": any)."""

    name: str
    asks: str
    answer: str
    without: str


# What the dialplan written by `fastagi dialplan` and the service use, by module. Getvar gives an
# empty value for a function that is not there.
_MODULES: Final = (
    _Module(
        "func_strings",
        "FILTER(0-9,1a)",
        "1",
        "what is dialled after a code is lost, and every code ends in 'try again'",
    ),
    _Module(
        "func_timeout",
        "TIMEOUT(absolute)",
        "",
        "a server that hangs keeps its callers for ever, in silence",
    ),
    _Module(
        "func_dialplan",
        f"DIALPLAN_EXISTS({FEATURES_CONTEXT})",
        "",
        "your own agent-features-after is never called",
    ),
    # Of CUT, which lamps of codes may use: a field of a path that every Asterisk has.
    _Module("func_cut", "CUT(ASTETCDIR,/,2)", "", "the lamps of keys with a code stay dark"),
    _Module("func_devstate", "DEVICE_STATE(Custom:agent-0)", "", "every lamp stays dark"),
)
# The application Gosub cannot be asked for, but a function of its module can: LOCAL_PEEK finds the
# variable that SET made for this very question, and FIELDQTY counts "aa" in 3 fields, "a" in 2.
_STACK: Final = ("FIELDQTY(SET(x=a)}${LOCAL_PEEK(0,x),a)", {"3": True, "2": False})
_FALLBACK: Final = _Module(
    "func_db", "DB_EXISTS(fastagi/check)", "", "the fallback's notes cannot be deleted"
)
_BY_NAME: Final = {
    "app_playback": "while the service is away callers hear nothing",
    "app_playtones": "where a sound is missing callers hear nothing",
}


async def modules(settings: Settings, pbx: Pbx) -> list[Finding]:
    about = "modules"
    text = dialplan.render_dialplan(settings, pbx.asterisk.name)
    asked = [m for m in _MODULES if m.name != "func_cut" or "CUT(" in text]
    asked += [_FALLBACK] if settings.fastagi.fallback else []
    values = await pbx.variables([module.asks for module in asked])
    answers = {module.name: value for module, value in zip(asked, values, strict=True)}
    if set(answers.values()) == {None}:
        return []  # Getvar is not allowed: told elsewhere
    missing = {
        module.name: module.without
        for module in asked
        if answers[module.name] is None or (module.answer and answers[module.name] != module.answer)
    }
    for name in ("app_stack", *_BY_NAME):
        value = await pbx.variable(f"IFMODULE({name}.so)")
        loaded = {"1": True, "0": False}.get(value or "")  # None: func_module is not there
        if loaded is None and name == "app_stack":
            loaded = _STACK[1].get(await pbx.variable(_STACK[0]) or "")
        if loaded is False:
            missing[name] = _BY_NAME.get(name, _SILENCE)
    answer = await pbx.client.action({"Action": "AGI"})
    if answer.message.startswith(NOT_LOADED):
        missing["res_agi"] = _SILENCE
    return _told(missing) or [ok(about, f"loaded: {', '.join(answers)}, res_agi", "modules.conf")]


def _told(missing: Mapping[str, str]) -> list[Finding]:
    silent = {"func_strings", "app_stack", "res_agi", "func_timeout"}
    return [
        (problem if name in silent else warning)(
            "modules", f"{name} is not loaded: {without}", "modules.conf", _load(name)
        )
        for name, without in missing.items()
    ]
