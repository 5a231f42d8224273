"""Pure: settings -> the texts that Asterisk includes (extensions, manager.conf, queues.conf).

Only values that cannot end a line, an argument or a section are written; for any other the
functions here raise ValueError, although the settings refuse them already.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from fastagi.agents.callers import SENT_BY
from fastagi.config import AsteriskSettings, HostPort, Settings
from fastagi.config.settings import Section
from fastagi.contract import (
    CALL_CONTEXT,
    FEATURES_CONTEXT,
    HINTS_CONTEXT,
    LOGIN_LAMP,
    PAUSE_LAMP,
    WITHOUT_DIGITS,
    Outcome,
    Script,
    Variable,
)

AFTER_CONTEXT = f"{FEATURES_CONTEXT}-after"

# What agi/prompts.py says for UNAVAILABLE; here it is said when nobody is there to say it.
TRY_AGAIN = ("tt-somethingwrong", "please-try-again")

# No longer does a call with the fallback last, menu and all, in seconds.
_FALLBACK_SECONDS = 60

# An agent's number and an extension with a star between them fit in; nothing much longer does.
_MOST_DIGITS = 64

_SAFE = {
    "code": re.compile(r"[*#0-9]{1,16}", re.ASCII),
    "host": re.compile(r"[A-Za-z0-9_.-]{1,253}|[0-9a-fA-F:.]{2,45}", re.ASCII),
    "sound": re.compile(r"[A-Za-z0-9_/.-]+", re.ASCII),
    "user name": re.compile(r"[A-Za-z0-9_.@-]{1,79}", re.ASCII),
    "number": re.compile(r"[0-9]{1,20}", re.ASCII),
    "name of an Asterisk": re.compile(r"[A-Za-z0-9_-]{1,20}", re.ASCII),
    "path": re.compile(r"/[A-Za-z0-9_./+@-]{1,250}", re.ASCII),
    "queue": re.compile(r"[^\x00-\x1f\x7f\[\]();,|\"\\#]+"),
}


def _safe(kind: str, text: str) -> str:
    if not _SAFE[kind].fullmatch(text):
        raise ValueError(f"{text!r} cannot be written as a {kind}")
    return text


def _address(server: HostPort) -> str:
    _safe("host", server.host)
    if not 1 <= server.port <= 65535:
        raise ValueError(f"{server.port} is no port that can be called")
    return str(server)


def _asterisk(settings: Settings, name: str) -> AsteriskSettings:
    """The one that is meant; "" names the only one. Raises ValueError."""
    names = [asterisk.name for asterisk in settings.asterisks]
    if name in names:
        return settings.asterisk_named(name)
    if not name and len(names) == 1:
        return settings.asterisk
    if names == [""]:
        raise ValueError(f"there is only one Asterisk, and it has no name: not {name!r}")
    what = f"no Asterisk is called {name!r}" if name else "there are several Asterisks"
    raise ValueError(f"{what}: name one of {', '.join(names)}")


def render_dialplan(settings: Settings, asterisk: str = "") -> str:
    """The include for extensions.conf: the feature codes, the way out, the hints.

    ``asterisk`` names one of several: each has a dialplan of its own, which tells the service where
    a call comes from. Raises ValueError for a name that there is not, and for none of several.
    """
    codes = settings.feature_codes.by_script()
    return "\n".join(
        [
            _HEAD.format(features=FEATURES_CONTEXT, hints=HINTS_CONTEXT),
            _features(codes),
            _call(settings, _asterisk(settings, asterisk).name),
            _hints(codes),
        ]
    )


_HEAD = """\
; Agent feature codes. Written by `fastagi dialplan`: change the configuration, not this file.
;
; In extensions.conf, once:      #include agent-features.conf
; in the context of the phones:  include => {features}
;
; Lamps: phones subscribe to agent-<number> (logged in) and pause-<number> (paused), or a key with
; the login code and the number, such as *30<number>, is lamp and button in one. Where phones have
; a subscribe_context of their own, that one includes {hints} instead.
"""


def _features(codes: dict[Script, str]) -> str:
    """Each code with and without a ``#`` at the end: some phones send the one that ends a number,
    and agents who are used to it press it."""
    lines = [f"[{FEATURES_CONTEXT}]"]
    for script, code in codes.items():
        length = len(_safe("code", code))
        typed = f"${{FILTER(0-9*,${{EXTEN:{length}:{_MOST_DIGITS}}})}}"
        lines += [
            f"exten => {alone},1,Gosub({CALL_CONTEXT},s,1({script.value},))"
            for alone in (code, f"{code}#")
        ]
        if script in WITHOUT_DIGITS:
            continue
        lines += [
            # X and X. rather than X!, which would end overlap dialling after the first digit
            f"exten => _{code}X,1,Gosub({CALL_CONTEXT},s,1({script.value},{typed}))",
            f"exten => _{code}X.,1,Gosub({CALL_CONTEXT},s,1({script.value},{typed}))",
        ]
    lines += [f"include => {HINTS_CONTEXT}", ""]
    return "\n".join(lines)


def _call(settings: Settings, asterisk: str) -> str:
    """One subroutine for all codes: ARG1 the script, ARG2 the digits, filtered already.

    What counts is our own variable, which is set last. AGISTATUS is FAILURE when the server refused
    the call, and SUCCESS also when it dies in mid-call: then nobody else may carry the same code
    out, or a toggle is done twice. The service settles what it had begun.
    """
    servers = [settings.fastagi.advertised, *settings.fastagi.standby]
    # The service ends a session at its deadline; only one that hangs gets this far.
    seconds = int(settings.fastagi.session_deadline.total_seconds()) + 5
    status = Variable.STATUS.value
    done = f"GotoIf(${{LEN(${{{status}}})}}?done)"
    query = f"?asterisk={_safe('name of an Asterisk', asterisk)}" if asterisk else ""
    lines = [
        f"[{CALL_CONTEXT}]",
        f"exten => s,1,Set({status}=)",
        f" same => n,Set(TIMEOUT(absolute)={seconds})",
        " same => n,Set(AGIEXITONHANGUP=yes)",
    ]
    for number, server in enumerate(dict.fromkeys(servers)):
        if number:
            lines.append("; the one before did not answer")
        lines += [
            f" same => n,AGI(agi://{_address(server)}/${{ARG1}}{query},${{ARG2}},{SENT_BY})",
            f" same => n,{done}",
            ' same => n,GotoIf($["${AGISTATUS}" = "SUCCESS"]?away)',
        ]
    if settings.fastagi.fallback is not None:
        command = _safe("path", settings.fastagi.fallback.command)
        facts = _safe("path", settings.fastagi.fallback.facts)
        lines += [
            "; no server: who is logged in can pause, unpause and log off without one. What it has",
            "; begun it finishes, although the caller is gone",
            f" same => n,Set(TIMEOUT(absolute)={_FALLBACK_SECONDS})",
            " same => n,Set(AGIEXITONHANGUP=no)",
            f" same => n,AGI({command},{facts},${{ARG1}},${{ARG2}})",
            f" same => n,{done}",
        ]
    sounds = settings.prompts.get(Outcome.UNAVAILABLE, TRY_AGAIN)
    said = "&".join(_safe("sound", sound) for sound in sounds)
    lines += [
        " same => n(away),Answer()",
        " same => n,Wait(0.5)",
        f" same => n,Playback({said})",
        ' same => n,GotoIf($["${PLAYBACKSTATUS}" = "SUCCESS"]?end)',
        " same => n,Playtones(congestion)",
        " same => n,Wait(3)",
        " same => n(end),Hangup()",
        f"; [{AFTER_CONTEXT}] s,1 is yours to write: it runs when a code was carried out or",
        f"; refused, with {status} set and the script in ARG1, and ends with Return()",
        f" same => n(done),GosubIf(${{DIALPLAN_EXISTS({AFTER_CONTEXT},s,1)}}"
        f"?{AFTER_CONTEXT},s,1(${{ARG1}}))",
        " same => n,Hangup()",
        "; a server that took the call and hangs: Asterisk itself would wait for ever",
        "exten => T,1,Goto(s,away)",
        "",
    ]
    return "\n".join(lines)


def _hints(codes: dict[Script, str]) -> str:
    """Pattern hints, since agents come and go: Asterisk makes one of them when it is asked for."""
    # All of the extension is filtered: Asterisk takes a "-" in a pattern for nothing at all, so
    # that "agent4001" matches as well, and a fixed number of characters would be one too many.
    number = "${FILTER(0-9,${EXTEN})}"
    lines = [
        f"[{HINTS_CONTEXT}]",
        "; [n] because a bare n in a pattern is a digit from 2 to 9",
        f"exten => _age[n]t-X!,hint,{LOGIN_LAMP.format(number=number)}",
        f"exten => _pause-X!,hint,{PAUSE_LAMP.format(number=number)}",
    ]
    for script in (Script.TOGGLE_LOGIN, Script.LOGIN):
        if code := codes.get(script):
            lamp = LOGIN_LAMP.format(number=_agent_dialled(_safe("code", code)))
            lines.append(f"exten => _{code}X!,hint,{lamp}")
    return "\n".join([*lines, ""])


def _agent_dialled(code: str) -> str:
    """The agent's number in ``<code><agent>`` and in ``<code><agent>*<extension>``: what stands
    up to the first star behind the code."""
    field = code.count("*") + 1
    skip = len(code) - code.rfind("*") - 1  # of the field: what of the code is in it
    return f"${{FILTER(0-9,${{CUT(EXTEN,*,{field}):{skip}:20}})}}"


def render_fallback_facts(settings: Settings, asterisk: str = "") -> str:
    """What the fallback must know, as JSON, without any secret and without the agents.

    The same for all of several Asterisks; raises ValueError for a name that there is not. The
    language is none of it: that of the agent is known to the service only, so that the fallback
    speaks the channel's.
    """
    if asterisk:
        _asterisk(settings, asterisk)
    facts = {
        "extension_from": settings.login.extension_from.value,
        "codes_from": list(settings.login.from_),
        "devices": [
            {
                "match": rule.pattern.text,
                "context": rule.context,
                "interface": rule.interface,
                "state_interface": rule.state_interface,
                "type": rule.type,
            }
            for rule in settings.device_rules()
        ],
        "queues": [_name(queue.name) for queue in settings.queues],
        "pause_reasons": [{"code": r.code, "name": r.name} for r in settings.pause_reasons],
        "prompts": {outcome.value: list(said) for outcome, said in settings.prompts.items()},
    }
    return json.dumps(facts, ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Stale:
    """A file that was made of the settings of before; ``settings`` says which ones are others."""

    settings: tuple[str, ...]
    mend: str


def out_of_date(before: Settings, after: Settings) -> list[Stale]:
    """Which of Asterisk's files have to be made again."""
    found = []
    several = " --asterisk NAME, for each" if len(after.asterisks) > 1 else ""
    if names := _decisive(before, after, render_dialplan):
        command = f"fastagi dialplan{several} > /etc/asterisk/agent-features.conf"
        found.append(Stale(names, f"{command}, then: asterisk -rx 'dialplan reload'"))
    fallback = after.fastagi.fallback
    if fallback is not None and (names := _decisive(before, after, render_fallback_facts)):
        found.append(Stale(names, f"fastagi dialplan --fallback{several} > {fallback.facts}"))
    return found


def _decisive(
    before: Settings, after: Settings, render: Callable[[Settings, str], str]
) -> tuple[str, ...]:
    """The settings that make what is rendered another one: ``feature_codes.logoff is now *82``."""

    def rendered(settings: Settings) -> list[str] | None:
        try:
            return [render(settings, asterisk.name) for asterisk in settings.asterisks]
        except ValueError:
            return None

    was = rendered(before)
    if was is None or rendered(after) == was:
        return ()
    found: list[str] = []
    for name in Settings.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new or rendered(before.model_copy(update={name: new})) == was:
            continue
        parts = type(new).model_fields if isinstance(new, Section) else ()
        decisive = [
            part
            for part in parts
            if getattr(old, part, None) != getattr(new, part)
            and isinstance(old, Section)
            and rendered(
                before.model_copy(update={name: old.model_copy(update={part: getattr(new, part)})})
            )
            != was
        ]
        found += [_told(f"{name}.{part}", getattr(new, part)) for part in decisive] or [name]
    return tuple(found)


def _told(name: str, value: object) -> str:
    if value is None:
        return f"{name} is off now"
    return f"{name} is now {value}" if isinstance(value, str | int) else name


def render_manager(settings: Settings, asterisk: str = "") -> str:
    """The section of manager.conf for the service; its secret is to be filled in."""
    user = _asterisk(settings, asterisk)
    name = _safe("user name", user.username)
    secret = f"that of {user.name} under asterisks" if user.name else "asterisk.secret"
    permit, remark = _permitted(settings, user)
    return f"""\
; The manager user of the agent feature codes. Written by `fastagi dialplan --manager`.
;
; In manager.conf, [general] needs `enabled = yes`; keep its bindaddr on 127.0.0.1 when the service
; runs on this machine.

[{name}]
secret = CHANGE-ME              ; what the configuration has as {secret}
deny = 0.0.0.0/0.0.0.0
deny = ::/0
permit = {permit:<22} ; {remark}
; No more than this:
;   read  agent      somebody else added, removed or paused a queue member
;   write agent      QueueAdd, QueueRemove, QueuePause, QueuePenalty, QueueLog
;         user       UserEvent: tells other programs
;         call       Setvar DEVICE_STATE(Custom:…): the lamps; DB_DELETE(fastagi/…): notes
;         reporting  CoreStatus: was Asterisk restarted? DBGetTree fastagi: notes that the
;                    fallback left while the service was away
read = agent
write = agent,user,call,reporting
writetimeout = 5000
"""


def _permitted(settings: Settings, user: AsteriskSettings) -> tuple[str, str]:
    """The address the service connects from, as far as the settings tell."""

    def address(host: str) -> str | None:
        if host == "localhost":
            return "127.0.0.1"
        try:
            return str(ip_address(host))
        except ValueError:
            return None

    asterisk = address(user.host)
    own = address(settings.fastagi.advertised.host)
    if asterisk and ip_address(asterisk).is_loopback:
        found, remark = asterisk, "the service's address: this machine"
    elif own and not ip_address(own).is_loopback:
        found, remark = own, "the service's address"
    else:
        found, remark = "127.0.0.1", "put the service's address here"
    return f"{found}/{'128' if ':' in found else '255.255.255.255'}", remark


def render_queues(settings: Settings) -> str:
    """A queues.conf with the configured queues. The members come and go by the service."""
    lines = [_QUEUES]
    for queue in settings.queues:
        lines += [
            f"; dialled as {_safe('number', queue.number)}",
            f"[{_name(queue.name)}](agent-queue)",
        ]
        lines.append("")
    return "\n".join(lines)


def _name(text: str) -> str:
    _safe("queue", text)
    if text.lower() in ("general", "agent-queue") or text != text.strip():
        raise ValueError(f"{text!r} cannot be written as a queue")
    return text


_QUEUES = """\
; The queues of the agent feature codes. Written by `fastagi dialplan --queues`, to begin with.

[general]
; The service keeps who is logged in and puts members back after a restart. Asterisk's own memory
; would bring back members whom nobody logged in, and makes each change three times as slow.
persistentmembers = no
autofill = yes
; Reports show Agent/4001 rather than the phone that agent 4001 happened to sit at.
log_membername_as_agent = yes
; An agent of several queues gets the pause after a call (wrapuptime) in all of them.
shared_lastcall = yes

[agent-queue](!)
strategy = leastrecent
timeout = 15                    ; so many seconds a phone rings
retry = 2
wrapuptime = 5                  ; so many seconds after a call until the next
ringinuse = no                  ; one call at a time; needs the state interface of the devices
autopause = no                  ; the service must know who is paused, why and since when
; Callers may wait while all agents talk or have a pause, but not when nobody is logged in.
joinempty = unavailable,invalid,unknown
leavewhenempty = no
"""
