"""What the dialplan runs while no server answers: a classic AGI, a process per call.

An agent who is logged in can still pause, unpause and log off: Asterisk's own applications do it,
and before anything is changed a note is left in Asterisk's database, so that the service knows who
it was when it is back. All else hears "please try again".

    AGI(/opt/fastagi/bin/fastagi-fallback,FACTS,agent/pause,1)

FACTS is the file that ``fastagi dialplan --fallback`` prints. Only what a call needs is imported:
no settings, no store, no log, which would take ten times as long as the call.
"""

import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NoReturn, Self

from asterisk.agi import (
    AGI,
    AGIAppError,
    AGIError,
    AGIException,
    AGIHangup,
    AGIInvalidCommand,
    AGIResultHangup,
    AGISIGHUPHangup,
    AGIUnknownError,
    AGIUsageError,
)

from fastagi.agents.callers import (
    SENT_BY,
    Access,
    Caller,
    Standing,
    access,
    device_of_caller,
    who_calls,
)
from fastagi.agents.devices import Device, DeviceRule, Pattern
from fastagi.agents.notes import Note
from fastagi.agi import prompts
from fastagi.agi.prompts import Digits, Facts, Number, Phrase
from fastagi.contract import LOGGED_OFF, MEMBER_NAME, NOTES_FAMILY, Outcome, Script, Variable

LONGEST = 90  # seconds; the dialplan ends the call before
TRIES = 3  # how often a reason is asked for
ANSWER_WITHIN = 8_000  # milliseconds for the first digit
NEXT_DIGIT_WITHIN = 3_000  # milliseconds for each further one
LIST_IS_WHOLE = 900  # characters; QUEUE_MEMBER_LIST cuts a longer list at 1,023
CONSOLE_WITHIN = 2  # seconds for an answer of Asterisk's console

_SHOWN = 80  # characters of what a caller sends that are written down
_MOST_HEADERS = 100
_LONGEST_LINE = 65_536
_MOST_SHOWN = 4_000_000  # bytes of an answer of the console
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_.-]")
_REPLY = re.compile(r"(?P<code>\d{3})(?P<more>-?) ?(?P<text>.*)", re.DOTALL)
_RESULT = re.compile(r"result=(?P<value>\S*)(?: \((?P<data>.*)\))?", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# To the end of the line: a reason may hold whatever follows it.
_PAUSED = re.compile(
    r".*? \(paused(?::(?P<reason>.*))? was -?\d+ secs ago\)( \([^()]*\))* has taken"
)
_AGENT = re.compile(MEMBER_NAME.format(number=r"(?P<number>[0-9]+)"), re.ASCII)


class Silence:
    """In place of stderr: pyst2 writes every line of a call there, Asterisk shows it as its own."""

    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass


class Phone(AGI):  # type: ignore[misc]
    """pyst2's AGI without what it would do to a call."""

    def __init__(self, stdin: Any, stdout: Any) -> None:
        # Not pyst2's own constructor, for three things it does: it takes SIGHUP, which works in a
        # main thread only; it writes all headers to stderr; its loop over the headers never ends
        # at an end of file, as it takes that for the blank line only by chance of strip().
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = Silence()
        self.env: dict[str, str] = {}
        self._got_sighup = False
        self.finishing = False  # a change has begun: it is finished though the caller is gone
        self._get_agi_env()

    def caller_hung_up(self, *_: object) -> None:
        """The handler of SIGHUP, by which Asterisk tells a classic AGI of it."""
        self._got_sighup = True

    @property
    def gone(self) -> bool:
        return self._got_sighup

    def _get_agi_env(self) -> None:
        # pyst2 splits the values with blanks around colons anew, and has no limit.
        for _ in range(_MOST_HEADERS):
            line = self._line()
            if line == "":
                return
            name, _colon, value = line.partition(":")
            self.env[name.strip()] = value.strip()
        raise AGIError("no end of the headers")

    def _line(self) -> str:
        # pyst2 strips at both ends, and takes an end of file for an empty line.
        text: str = self.stdin.readline(_LONGEST_LINE)
        if not text.endswith("\n"):
            self._got_sighup = True
            raise AGIHangup("Asterisk is gone")
        return text.rstrip("\r\n")

    def _quote(self, string: object) -> str:
        # pyst2 escapes nothing: a quote ends the argument, a line's end the command.
        text = _CONTROLS.sub("", str(string))
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def test_hangup(self) -> None:
        # pyst2 refuses every further command, also those that finish what has begun. Asterisk
        # itself takes EXEC, SET VARIABLE and DATABASE on a channel that is gone.
        if self._got_sighup and not self.finishing:
            raise AGISIGHUPHangup("the caller hung up")

    def get_result(self, stdin: Any = None) -> dict[str, tuple[str, str]]:
        # pyst2 raises ValueError at HANGUP and at an end of file, reads for ever when the end
        # comes within a 520, does not know that a 520 may be one line, and knows no 511.
        line = self._line()
        while line == "HANGUP":
            self._got_sighup = True
            line = self._line()
        found = _REPLY.fullmatch(line)
        if found is None:
            raise AGIUnknownError(0, "no reply of Asterisk's")
        code, text = found["code"], found["text"]
        if code == "200":
            return self._result(text)
        if code == "510":
            raise AGIInvalidCommand(text)
        if code == "511":
            self._got_sighup = True
            raise AGIResultHangup(text)
        if code == "520":
            if found["more"]:
                while not self._line().startswith("520"):
                    pass
            raise AGIUsageError(text)
        raise AGIUnknownError(int(code), text)

    def _result(self, text: str) -> dict[str, tuple[str, str]]:
        found = _RESULT.match(text)
        value, data = (found["value"], found["data"] or "") if found else ("", "")
        if data == "hangup":
            self._got_sighup = True
            raise AGIResultHangup("the caller hung up")
        if value == "-1":
            raise AGIAppError("refused, or the caller hung up")
        return {"result": (value, data)}

    # -- what pyst2 has not, or not in this way

    def play(self, sound: str, escape: str) -> str:
        """The digit that was pressed, else "".

        pyst2 does not quote the name, and takes a missing file for a hang-up: Asterisk says -1 to
        both, but 511 to whatever else is asked of a channel that is gone.
        """
        try:
            reply = self.execute("STREAM FILE", self._quote(sound), self._quote(escape))
        except AGIHangup:
            raise
        except AGIAppError:
            self.execute("CHANNEL STATUS")
            raise SoundMissing(sound) from None
        return _digit(reply["result"][0])

    def say_number_of(self, value: int, escape: str) -> str:
        reply = self.execute("SAY NUMBER", value, self._quote(escape))
        return _digit(reply["result"][0])

    def expression(self, text: str) -> str:
        """What Asterisk makes of it; "" where it knows no such function."""
        try:
            value: str = self.get_full_variable(text)
        except AGIInvalidCommand:
            return ""
        return value

    def application(self, name: str, *arguments: str) -> None:
        """Only the last may have anything in it: what stands before is parted at commas, and loses
        quotes and backslashes. The settings let no queue and no interface have any of these."""
        self.appexec(name, ",".join(arguments))


class SoundMissing(Exception):
    """Nothing was heard."""


class TryAgain(Exception):
    """What only the service can do, or nothing that may be done now."""


class Refused(Exception):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def _digit(result: str) -> str:
    code = int(result) if result.isdigit() else 0
    return chr(code) if 32 < code < 127 else ""


@dataclass(frozen=True, slots=True)
class Known:
    """The facts file: what the configuration says, as far as it is needed here."""

    access: Access
    queues: tuple[str, ...]
    reasons: Mapping[str, str]  # code -> name
    prompts: Mapping[Outcome, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> Self:
        """Raises OSError, or ValueError for what is no facts file of this version."""
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        try:
            rules = [
                DeviceRule(
                    pattern=Pattern.parse(rule["match"]),
                    context=rule["context"],
                    interface=rule["interface"],
                    state_interface=rule["state_interface"],
                    type=rule["type"],
                )
                for rule in data["devices"]
            ]
            return cls(
                access=access(
                    rules, data["extension_from"] == "endpoint", data.get("codes_from", ())
                ),
                queues=tuple(data["queues"]),
                reasons={reason["code"]: reason["name"] for reason in data["pause_reasons"]},
                prompts={Outcome(key): tuple(value) for key, value in data["prompts"].items()},
            )
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no facts file: {error!r}") from error


@dataclass(frozen=True, slots=True)
class PausedMember:
    reason: str | None  # None: not known
    agent: str  # number; "" where the member's name tells none
    left: bool  # a static or realtime member whose agent is logged off, or has left the queue


_NOT_KNOWN = PausedMember(None, "", left=False)


@dataclass(frozen=True, slots=True)
class Here:
    """What Asterisk tells of the phone as a queue member."""

    queues: tuple[str, ...]  # not those that its agent has left
    paused: tuple[PausedMember, ...]  # in these of them
    certain: bool  # it is in one of them
    left: bool  # there are queues that its agent has left, and whose members stay paused

    @property
    def named(self) -> tuple[str, ...]:
        """The queues as PauseQueueMember takes them: "" is all at once."""
        return self.queues if self.left else ("",)

    @property
    def reasons(self) -> set[str | None]:
        """Those of a pause in all queues; none where the phone is available in one."""
        everywhere = len(self.paused) == len(self.queues)
        return {member.reason for member in self.paused} if everywhere else set()


class Call:
    """One call: who calls, from which phone, and what is said to them."""

    def __init__(self, phone: Phone, known: Known, dialled: str, now: datetime) -> None:
        self.phone = phone
        self.known = known
        self.dialled = dialled
        self.now = now
        env = phone.env
        self.channel = _printable(env.get("agi_channel", ""))
        self.caller_id = _printable(env.get("agi_callerid", ""))
        self.unique_id = _NOT_IN_ID.sub("", env.get("agi_uniqueid", ""))[:_SHOWN] or "unknown"
        self.caller = self._recognised()
        self.extension = self.caller.extension
        self.reason = ""  # its code
        self.agent = ""  # the number, where Asterisk tells it
        self._answered = False
        # A "#" that ends what was dialled or typed may come when that is over: it answers nothing.
        self._hash_may_follow = True

    def _recognised(self) -> Caller:
        env = self.phone.env
        steps = who_calls(
            env.get("agi_channel", ""),
            env.get("agi_context", ""),
            env.get("agi_callerid", ""),
            self.known.access,
            self.phone.expression(SENT_BY),
        )
        try:
            question = next(steps)
            while True:
                question = steps.send(self.phone.expression(question))
        except StopIteration as found:
            caller: Caller = found.value
        return caller

    # -- speaking and asking

    def say(self, phrase: Phrase, escape: str = "") -> str:
        """Speaks; returns the digit that cut it short, if any of ``escape`` was pressed."""
        if not self._answered:
            self.phone.answer()
            self._answered = True
        for item in phrase:
            if isinstance(item, Digits):
                pressed: str = self.phone.say_digits(item.text, escape)
            elif isinstance(item, Number):
                pressed = self.phone.say_number_of(item.value, escape)
            else:
                pressed = self._play(item, escape)
            if pressed:
                return pressed
        return ""

    def _play(self, sound: str, escape: str) -> str:
        try:
            return self.phone.play(sound, escape)
        except SoundMissing:
            self.phone.verbose(f"fastagi-fallback: the sound {sound} is missing")
        try:
            return self.phone.play(prompts.LAST_RESORT, escape)
        except SoundMissing:
            return ""

    def ask(self, phrase: Phrase, digits: int) -> str:
        """Digits ended with ``#`` or by a silence; "" when none came."""
        pressed = self.say(phrase, "0123456789*#")
        if pressed == "#" and self._hash_may_follow:  # it cut the question short
            self._hash_may_follow = False
            pressed = self.say(phrase, "0123456789*#")
        pressed = pressed or self.phone.wait_for_digit(ANSWER_WITHIN)
        if pressed == "#" and self._hash_may_follow:
            pressed = self.phone.wait_for_digit(ANSWER_WITHIN)
        text = ""
        while pressed and pressed != "#" and len(text) < digits:
            text += pressed
            if len(text) < digits:
                pressed = self.phone.wait_for_digit(NEXT_DIGIT_WITHIN)
        # After the last digit, and where the caller was too slow with it.
        self._hash_may_follow = text != "" and pressed != "#"
        return text

    def ask_reason(self) -> None:
        reasons = self.known.reasons
        most = max(map(len, reasons), default=1)
        code = self.dialled
        outcome = Outcome.NO_SUCH_REASON if code else Outcome.NO_INPUT
        for attempt in range(TRIES + 1):
            if code in reasons:
                self.reason = code
                return
            if attempt == TRIES or not reasons:
                break
            wrong = (prompts.WRONG_CHOICE,) if code else ()
            code = self.ask(wrong + prompts.menu(tuple(reasons)), most)
            if code:
                outcome = Outcome.NO_SUCH_REASON
        raise Refused(outcome)

    # -- the member

    def device(self) -> Device:
        """The queue member that the caller's phone is. Raises Refused for who may not use the
        codes, and TryAgain where the caller has to be asked who it is."""
        caller = self.caller
        device = device_of_caller(caller, self.known.access.rules, "")
        if caller.standing is Standing.STRANGER:
            if not caller.interface:
                raise Refused(Outcome.NOT_FROM_HERE)
            # Not so the phone whose device rule is gone, as long as it is in a queue.
            device = Device(caller.endpoint, "", caller.interface, caller.interface)
            try:
                self.here(device)
            except Refused:
                raise Refused(Outcome.NOT_FROM_HERE) from None
        if device is not None and caller.standing is Standing.OUTSIDE and device.type == "local":
            device = None  # a caller ID from outside makes nobody sit at a phone in the house
        if device is None:
            raise TryAgain("no phone: only the service can ask for the agent's number and PIN")
        return device

    def here(self, device: Device) -> "Here":
        """Which queues this phone is in. Raises Refused where nobody is logged in here.

        QUEUE_MEMBER is asked only of queues that the phone is in: of others it answers 0 as well,
        and logs an error.
        """
        known: list[str] = []
        perhaps: list[str] = []
        paused: list[PausedMember] = []
        left = False
        for queue in self.known.queues:
            listed = self.phone.get_variable(f"QUEUE_MEMBER_LIST({queue})")
            certain = device.interface.lower() in listed.lower().split(",")
            if not certain and len(listed) <= LIST_IS_WHOLE:
                continue
            told = self.phone.get_variable(f"QUEUE_MEMBER({queue},paused,{device.interface})")
            if told != "1":
                (known if certain else perhaps).append(queue)
                continue
            member = paused_member(queue, device.interface)
            if member.left:
                left = True
                continue
            known.append(queue)
            paused.append(member)
            self.agent = self.agent or member.agent
        if not known and not perhaps:
            raise Refused(Outcome.NOT_LOGGED_IN)
        return Here((*known, *perhaps), tuple(paused), certain=bool(known), left=left)

    # -- notes

    def note(self, script: Script, device: Device) -> str:
        """Leaves it and returns its key. From here on the change is carried to its end."""
        if self.phone.gone:
            raise AGIHangup("gone before anything was begun")
        note = Note(
            at=self.now,
            script=script,
            interface=device.interface,
            reason=self.reason if script is Script.PAUSE else "",
            channel=self.channel,
            caller_id=self.caller_id,
            unique_id=self.unique_id,
        )
        value = _fitting(note)
        self.phone.finishing = True
        try:
            self.phone.database_put(NOTES_FAMILY, note.key, value)
        except AGIHangup:
            raise
        except AGIError as error:
            raise TryAgain("the note could not be left") from error
        return note.key

    def take_back(self, key: str) -> None:
        self.phone.database_del(NOTES_FAMILY, key)


def paused_member(queue: str, interface: str) -> PausedMember:
    """Why this member is paused. No function of the dialplan tells it, Asterisk's console does."""
    member = re.escape(interface)
    line = re.compile(
        rf"\s+(?:(?P<name>.*?) \({member}(?: from .*?)?\)|{member})(?P<rest> (?:with|\().*)",
        re.IGNORECASE,
    )
    if '"' in queue or _CONTROLS.search(queue):
        return _NOT_KNOWN
    for text in _COLOUR.sub("", on_console(f'queue show "{queue}"')).split("\n"):
        found = line.fullmatch(text)
        paused = _PAUSED.match(found["rest"]) if found else None
        if found is None or paused is None:
            continue
        named = _AGENT.fullmatch(found["name"] or "")
        reason = paused["reason"] or ""
        left = reason == LOGGED_OFF and "(dynamic)" not in found["rest"]
        return PausedMember(reason, named["number"] if named else "", left)
    return _NOT_KNOWN


def on_console(command: str) -> str:
    """What Asterisk's own console answers, as ``asterisk -rx`` would; "" where it cannot be asked:
    another name than asterisk.ctl, no permission, no answer in time."""
    import socket  # few calls need it
    import time

    folder = os.environ.get("AST_RUN_DIR")  # set by Asterisk for its AGI programs
    if not folder:
        return ""
    shown = b""
    ends = time.monotonic() + CONSOLE_WITHIN
    try:
        with socket.socket(socket.AF_UNIX) as console:
            console.settimeout(CONSOLE_WITHIN)
            console.connect(os.path.join(folder, "asterisk.ctl"))
            console.sendall(b"cli quit after " + command.encode() + b"\0")
            while part := console.recv(_LONGEST_LINE):
                shown += part
                if len(shown) > _MOST_SHOWN or time.monotonic() > ends:
                    return ""
    except (OSError, ValueError):
        return ""
    return shown.decode(errors="replace")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:_SHOWN]


def _fitting(note: Note) -> str:
    for shorter in (note, replace(note, caller_id=""), replace(note, caller_id="", channel="")):
        try:
            return shorter.value()
        except ValueError:
            continue
    raise TryAgain("the note does not fit")


def pause(call: Call) -> Outcome:
    device = call.device()
    here = call.here(device)
    call.ask_reason()
    name = call.known.reasons[call.reason]
    if here.reasons == {name}:
        return Outcome.ALREADY_PAUSED
    key = call.note(Script.PAUSE, device)
    results = set()
    for queue in here.named:
        call.phone.application("PauseQueueMember", queue, device.interface, "", name)
        results.add(call.phone.get_variable("PQMSTATUS"))
    if "PAUSED" not in results:
        call.take_back(key)
        raise Refused(Outcome.NOT_LOGGED_IN)
    changed = here.reasons and None not in here.reasons
    return Outcome.PAUSE_REASON_CHANGED if changed else Outcome.PAUSED


def unpause(call: Call) -> Outcome:
    device = call.device()
    here = call.here(device)
    if here.certain and not here.paused:
        return Outcome.NOT_PAUSED
    key = call.note(Script.UNPAUSE, device)
    results = set()
    for queue in here.named:
        call.phone.application("UnpauseQueueMember", queue, device.interface)
        results.add(call.phone.get_variable("UPQMSTATUS"))
    if "UNPAUSED" not in results:
        call.take_back(key)
        raise Refused(Outcome.NOT_LOGGED_IN)
    return Outcome.UNPAUSED


def logoff(call: Call) -> Outcome:
    """Of whoever sits here. Who that is Asterisk does not tell, so that a number that was dialled
    could be another agent's, whose PIN only the service can check."""
    if call.dialled:
        raise TryAgain("a number was dialled")
    device = call.device()
    here = call.here(device)
    key = call.note(Script.LOGOFF, device)
    results = set()
    for queue in here.queues:
        call.phone.application("RemoveQueueMember", queue, device.interface)
        result = call.phone.get_variable("RQMSTATUS")
        if result == "NOTDYNAMIC":  # queues.conf or a realtime table keeps it: paused instead
            words = (queue, device.interface, "", LOGGED_OFF)
            call.phone.application("PauseQueueMember", *words)
            result = call.phone.get_variable("PQMSTATUS")
        results.add(result)
    if not results & {"REMOVED", "PAUSED"}:
        call.take_back(key)
    if results == {"NOTINQUEUE"}:
        raise Refused(Outcome.NOT_LOGGED_IN)
    if not results <= {"REMOVED", "PAUSED", "NOTINQUEUE"}:
        raise Refused(Outcome.QUEUE_REFUSED)  # the phone would go on ringing in that one
    return Outcome.LOGGED_OFF


def toggle_pause(call: Call) -> Outcome:
    return unpause(call) if call.here(call.device()).paused else pause(call)


def toggle_login(call: Call) -> Outcome:
    try:
        return logoff(call)
    except Refused as refusal:
        if refusal.outcome is Outcome.NOT_LOGGED_IN:
            raise TryAgain("nobody to log off") from refusal
        raise


FEATURES = {
    Script.PAUSE: pause,
    Script.UNPAUSE: unpause,
    Script.LOGOFF: logoff,
    Script.TOGGLE_PAUSE: toggle_pause,
    Script.TOGGLE_LOGIN: toggle_login,
}


def serve(phone: Phone, known: Known, script: str, dialled: str, now: datetime) -> None:
    """One call, from the first word to AGENT_STATUS. Raises AGIException when the call is lost."""
    call = Call(phone, known, dialled, now)
    try:
        feature = FEATURES.get(Script(script)) if script in set(Script) else None
        if feature is None:
            raise TryAgain("needs the service")
        outcome = feature(call)
    except Refused as refusal:
        outcome = refusal.outcome
    except TryAgain:
        outcome = Outcome.UNAVAILABLE
    spoken = Facts(agent=call.agent, extension=call.extension, reason=call.reason)
    phone.finishing = False
    try:
        call.say(prompts.answer(outcome, spoken, known.prompts))
    except AGIAppError:
        pass  # nobody listens any more
    finally:
        phone.finishing = True
        for name, value in _variables(call, outcome):
            phone.set_variable(name, value)


def _variables(call: Call, outcome: Outcome) -> Iterator[tuple[str, str]]:
    paused = outcome in (Outcome.PAUSED, Outcome.ALREADY_PAUSED, Outcome.PAUSE_REASON_CHANGED)
    yield Variable.NUMBER.value, ""  # Asterisk tells of a member's interface, not of its name
    yield Variable.EXTENSION.value, call.extension
    yield Variable.PAUSE_REASON.value, call.known.reasons[call.reason] if paused else ""
    yield Variable.STATUS.value, outcome.value


def streams() -> tuple[Any, Any]:
    """Standard input and output as Asterisk means them: any bytes, a line at a time.

    Python's own would refuse a caller's name in Latin-1, and complain when Asterisk is gone.
    """
    reader = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, "r", closefd=False)),
        encoding="utf-8",
        errors="replace",
        newline="\n",
    )
    writer = io.TextIOWrapper(
        io.FileIO(1, "w", closefd=False),
        encoding="utf-8",
        errors="replace",
        newline="\n",
        write_through=True,
    )
    return reader, writer


def main(arguments: Sequence[str] = sys.argv) -> NoReturn:
    """``fastagi-fallback FACTS SCRIPT [DIGITS]``: without AGENT_STATUS the dialplan speaks."""
    if len(arguments) not in (3, 4):
        print("Asterisk runs this: AGI(fastagi-fallback,FACTS,SCRIPT,DIGITS)", file=sys.stderr)
        raise SystemExit(2)
    signal.alarm(LONGEST)  # whatever hangs, ends
    try:
        reader, writer = streams()
        phone = Phone(reader, writer)
        signal.signal(signal.SIGHUP, phone.caller_hung_up)
        try:
            known = Known.read(arguments[1])
        except (OSError, ValueError) as error:
            phone.verbose(f"fastagi-fallback: {arguments[1]}: {error}")
            raise SystemExit(1) from None
        dialled = "".join(c for c in "".join(arguments[3:]) if c in "0123456789*")[:64]
        serve(phone, known, arguments[2], dialled, datetime.now(UTC))
    except (AGIException, OSError) as error:
        raise SystemExit(0 if isinstance(error, AGIHangup) else 1) from None
    raise SystemExit(0)


__all__ = ["AGIAppError", "Call", "Known", "Phone", "main", "serve"]

if __name__ == "__main__":
    main()
