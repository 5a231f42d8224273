"""The codes: one coroutine per AGI script; the table FEATURES is the whole of the phone.

Each call runs the same way: who calls, and may they; find out who and what, asking where it was not
dialled; let the hall carry it out; speak the outcome; set the channel variables, AGENT_STATUS the
last.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar
from urllib.parse import parse_qsl

import structlog

from fastagi.agents import errors
from fastagi.agents.callers import (
    Access,
    Caller,
    Questions,
    Standing,
    access,
    device_of_caller,
    may_be,
    tells_apart,
    who_calls,
)
from fastagi.agents.commands import (
    Actor,
    Command,
    JoinQueue,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import Device, DeviceRule, device_key, resolve
from fastagi.agents.lockout import Place
from fastagi.agents.model import AgentState, Change
from fastagi.agents.service import AgentService
from fastagi.agents.storage import wait_at_most
from fastagi.agi import prompts
from fastagi.agi.prompts import Digits, Facts, Number, Phrase
from fastagi.agi.protocol import AGIError, printable
from fastagi.agi.session import (
    CallerHungUp,
    CommandFailed,
    ConnectionLost,
    Session,
    SessionTimeout,
    SoundMissing,
)
from fastagi.contract import Outcome, Script, Source, Variable

log = structlog.get_logger()

TRIES = 3  # how often a number is asked for
ANSWER_WITHIN = 8.0  # seconds for the first digit
NEXT_DIGIT_WITHIN = 3.0  # seconds for each further one
AGENT_DIGITS = 20
PIN_DIGITS = 12
BUSY = "busy"  # among the handlers: for a call too many
SHOWN = 80  # characters of what a caller sends that are written down
LOOK_EVERY = 0.25  # seconds, for callers who wait for an answer
PLEASE_WAIT_AFTER = 4  # looks at a caller who hears nothing: within a second
AND_AGAIN_AFTER = 24  # looks since the last "please wait"

C = TypeVar("C", bound=Command)

_DIALLED = re.compile(r"(?P<number>[0-9]{0,20})(?:\*(?P<extension>[0-9]{1,40}))?")
_PLAIN = re.compile(r"[A-Za-z0-9_ .+-]*")


@dataclass(frozen=True)
class PhoneSettings:
    """The admin's choices for calls from phones."""

    rules: tuple[DeviceRule, ...]
    extension_from_endpoint: bool = True
    codes_from: tuple[str, ...] = ()  # contexts and endpoints that may use the codes, too
    pin_tries: int = 3
    ask_to_move: bool = True  # when the agent is logged in elsewhere
    move: bool = False  # without asking
    take_over: bool = False
    when_in_call: WhenInCall = WhenInCall.AFTER_CALL  # a log-off
    pause_when_in_call: WhenInCall = WhenInCall.ALLOW
    prompts: Mapping[Outcome, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def access(self) -> Access:
        return access(self.rules, self.extension_from_endpoint, self.codes_from)


class Call:
    """One call: what is known so far, and how to speak into it."""

    def __init__(self, session: Session, service: AgentService, settings: PhoneSettings) -> None:
        self.session = session
        self.service = service
        self.settings = settings
        request = session.request
        self.dialled = request.args[0] if request.args else ""
        self.actor = Actor(
            channel=printable(request.channel)[:SHOWN],
            caller_id=printable(request.callerid)[:SHOWN],
            unique_id=printable(request.uniqueid)[:SHOWN],
        )
        self.asterisk = asterisk_in(request.query, service.queues.names)
        self.caller = Caller(Standing.STRANGER)  # until ``recognise``
        self.device: Device | None = None  # the queue member that the caller's phone is
        # What the answer and the channel variables speak of.
        self.agent = ""
        self.extension = ""
        self.queue = ""
        self.missing: tuple[str, ...] = ()  # numbers of the agent's queues that Asterisk lacks
        self.occupant_there = ""  # the number of the agent who is logged in on the extension
        self.reason: PauseReason | None = None
        self.wanted_reason: PauseReason | None = None  # of a pause that was asked for
        self.status_of: AgentState | None = None
        self.identified: AgentState | None = None
        self._answered = False
        self._language = self._wanted = request.language
        # A "#" that ends what was dialled or typed may come when that is over: it answers nothing.
        self._hash_may_follow = True
        # Of Patience: how many commands it has seen at its last look, how many looks in a row found
        # nothing new, and at how many it says "please wait".
        self.commands_seen = self.looks = 0
        self.patient_for = PLEASE_WAIT_AFTER
        self._reminder: asyncio.Task[None] | None = None  # says it

    # -- speaking and asking

    async def free(self) -> None:
        """Waits until a command can be given: only one at a time can be on its way."""
        if self._reminder is not None:
            await self._reminder
            self._reminder = None

    @property
    def reminding(self) -> bool:
        return self._reminder is not None and not self._reminder.done()

    def remind(self) -> None:
        """Says "please wait", while the call waits for something else than the caller."""
        self._reminder = asyncio.create_task(self._please_wait(), name="please wait")

    async def _please_wait(self) -> None:
        try:
            await self._pick_up()
            try:
                await self.session.stream_file(prompts.PLEASE_WAIT)
            except SoundMissing as missing:
                await self._beep(missing.file, "")
        except AGIError as error:  # the call finds out as well
            log.debug("a caller could not be told to wait", error=type(error).__name__)
        self.commands_seen = self.session.commands  # these were no answer

    async def _answer(self) -> None:
        await self.free()
        await self._pick_up()

    async def _pick_up(self) -> None:
        if self._wanted != self._language:
            self._language = self._wanted
            await self.session.set_variable("CHANNEL(language)", self._language)
        if not self._answered:
            await self.session.answer()
            self._answered = True

    def use_language(self, language: str) -> None:
        """From the next word on: a change is not kept waiting for it."""
        self._wanted = language or self._language

    async def say(self, phrase: Phrase, escape: str = "") -> str:
        """Speaks; returns the digit that cut it short, if any of ``escape`` was pressed."""
        await self._answer()
        for item in phrase:
            try:
                if isinstance(item, Digits):
                    pressed = await self.session.say_digits(item.text, escape)
                elif isinstance(item, Number):
                    pressed = await self.session.say_number(item.value, escape)
                else:
                    pressed = await self.session.stream_file(item, escape)
            except SoundMissing as missing:
                pressed = await self._beep(missing.file, escape)
            if pressed:
                return pressed
        return ""

    async def _beep(self, missing: str, escape: str) -> str:
        """In place of a sound that is not there; the rest is still spoken."""
        log.error(
            "a sound file is missing", sound=missing, language=printable(self._language)[:SHOWN]
        )
        try:
            return await self.session.stream_file(prompts.LAST_RESORT, escape)
        except SoundMissing:
            return ""

    async def ask_number(self, sound: str, digits: int) -> str:
        """Digits ended with ``#`` or by a silence; "" when none came."""
        await self._answer()
        while True:
            may_follow, self._hash_may_follow = self._hash_may_follow, False
            try:
                typed = await self.session.get_data(sound, int(ANSWER_WITHIN * 1000), digits)
            except SoundMissing:
                self._hash_may_follow = may_follow
                return await self._collect(await self._beep(sound, "0123456789*#"), digits)
            if typed.text or typed.timed_out or not may_follow:
                # After the last digit, and where the caller was too slow with it.
                at_end = len(typed.text) >= digits or typed.timed_out
                self._hash_may_follow = at_end and typed.text != ""
                return typed.text

    async def ask_choice(self, phrase: Phrase, digits: int) -> str:
        """Like ask_number for a phrase of several sounds."""
        pressed = await self.say(phrase, "0123456789*#")
        if pressed == "#" and self._hash_may_follow:  # it cut the question short
            self._hash_may_follow = False
            pressed = await self.say(phrase, "0123456789*#")
        return await self._collect(pressed, digits)

    async def _collect(self, first: str, digits: int) -> str:
        pressed = first or await self.session.wait_for_digit(int(ANSWER_WITHIN * 1000))
        if pressed == "#" and self._hash_may_follow:
            pressed = await self.session.wait_for_digit(int(ANSWER_WITHIN * 1000))
        text = ""
        while pressed and pressed != "#" and len(text) < digits:
            text += pressed
            if len(text) < digits:
                pressed = await self.session.wait_for_digit(int(NEXT_DIGIT_WITHIN * 1000))
        # After the last digit, and where the caller was too slow with it.
        self._hash_may_follow = text != "" and pressed != "#"
        return text

    async def confirm(self, template: tuple[str, ...], facts: Facts) -> bool:
        """Whether 1 was pressed. Who hangs up at the question has said no."""
        try:
            return await self.ask_choice(prompts.fill(template, facts), 1) == "1"
        except (CallerHungUp, ConnectionLost):  # Asterisk tells the one and does the other at once
            return False

    # -- who

    def _who(self) -> Questions:
        request = self.session.request
        sent_by = printable(request.args[1])[:SHOWN] if len(request.args) > 1 else ""
        return who_calls(
            request.channel, request.context, request.callerid, self.settings.access, sent_by
        )

    def at_first_sight(self) -> None:
        """Who calls, as far as nobody has to be asked for it."""
        try:
            next(self._who())
        except StopIteration as found:
            self.caller = found.value
            self.extension = self.caller.extension

    async def recognise(self) -> None:
        """Finds out who calls. Raises NotFromHere where that is nobody who may, Unavailable."""
        steps = self._who()
        try:
            question = next(steps)
            while True:  # never for a phone of ours
                question = steps.send(await self._told(question))
        except StopIteration as found:
            self.caller = found.value
        self.extension = self.caller.extension
        self.device = device_of_caller(self.caller, self.settings.rules, self.asterisk)
        if self.caller.standing is Standing.STRANGER:
            if await self._without_a_rule() is None:
                raise errors.NotFromHere(self._cure())
            self.caller = Caller(
                Standing.PHONE, self.caller.endpoint, self.caller.number, self.caller.interface
            )
            self.extension = self.caller.extension

    async def _told(self, question: str) -> str:
        """What Asterisk makes of an expression; "" where it knows no such function."""
        await self.free()
        try:
            return await self.session.get_full_variable(question) or ""
        except CommandFailed:
            return ""

    def _cure(self) -> str:
        caller = self.caller
        if caller.sent:
            return caller.why
        listed = " or ".join(filter(None, (caller.interface, caller.context)))
        rather = (
            ", login.extension_from: caller_id where callers' numbers are the extensions"
            if self.settings.extension_from_endpoint
            else ""
        )
        return (
            f"{caller.why}; if the codes may be dialled from there: a device rule that matches"
            f"{rather}, or {listed or 'its context'} in login.from"
        )

    async def _without_a_rule(self) -> AgentState | None:
        """Who is logged in on the caller's phone, as the login was stored: the device rule that
        made it a queue member is gone, or makes another one of it by now."""
        caller = self.caller
        if not caller.interface:
            return None
        key = device_key(self.asterisk, caller.interface)
        return await self.service.agent_on(key) or await self._with_extension(caller.endpoint)

    async def _with_extension(self, extension: str) -> AgentState | None:
        """Who was logged in with this extension, if it may have been at the caller's phone."""
        state = await self.service.agent_with_extension(extension, self.asterisk)
        if state is None or state.session is None:
            return None
        there, caller = state.session.device, self.caller
        name = caller.endpoint if self.settings.extension_from_endpoint else ""
        if there.type != "local" or (
            caller.interface and not may_be(there, caller.technology, name)
        ):
            return None
        if self.device is not None and there.context != self.device.context:
            return None  # another phone, which has the same extension in another context
        return state

    async def occupant(self) -> AgentState | None:
        """The agent who is logged in where the caller sits, if any."""
        if self._is_elsewhere_by_caller_id:
            return None
        state = None if self.device is None else await self.service.agent_at(self.device)
        if state is None and self.caller.standing is Standing.PHONE:
            state = await self._without_a_rule()
            if state is None and self.extension:
                state = await self._with_extension(self.extension)
        return state

    @property
    def _is_elsewhere_by_caller_id(self) -> bool:
        """A caller ID from outside may tell an outside number, but makes nobody sit at a phone in
        the house: that would be acting for its agent without the PIN."""
        outside = self.caller.standing is Standing.OUTSIDE
        return outside and self.device is not None and self.device.type == "local"

    async def agent_here(self) -> AgentState:
        """The same. Who calls from elsewhere than a phone is asked for the number, and proves it
        with the PIN. Raises NotLoggedIn where there is nobody."""
        state = await self.occupant()
        if state is None and not self.elsewhere:
            raise errors.NotLoggedIn(self.extension)
        if state is None:
            state = await self.identify("")
            await self.prove(state)
            if state.session is None:
                raise errors.NotLoggedIn(self.extension)
        self.met(state)
        return state

    @property
    def elsewhere(self) -> bool:
        """Whether the caller sits at no phone of ours at which an agent could be logged in."""
        return self.device is None or self.caller.standing is Standing.OUTSIDE

    @property
    def place(self) -> Place:
        """For what wrong PINs count."""
        caller = self.caller
        by_name = caller.ruled or self.settings.extension_from_endpoint
        if caller.standing is Standing.PHONE and caller.interface and by_name:
            return Place(f"phone:{self.asterisk}:{caller.interface.lower()}", outside=False)
        if caller.at_home and caller.number:
            return Place(f"phone:{self.asterisk}:{caller.number}", outside=False)
        if tells_apart(caller.number):
            return Place(f"number:{caller.number}", outside=True)
        if self.asked_extension:
            return Place(f"extension:{self.asked_extension}", outside=True)
        return Place("", outside=True)

    def met(self, state: AgentState) -> None:
        self.agent = state.number
        if state.session:
            self.extension = state.session.device.extension
        self.reason = state.pause.reason if state.pause else None
        self.use_language(state.language)

    async def identify(self, number: str) -> AgentState:
        """The agent with this number, asked for when empty or unknown; the same when called
        again."""
        if self.identified is not None:
            return self.identified
        refusal: errors.Refused = errors.NoInput()
        wrong = False  # what was typed, or dialled, last
        for _ in range(TRIES):
            if not number:
                sound = prompts.ASK_AGENT_AGAIN if wrong else prompts.ASK_AGENT
                typed = await self.ask_number(sound, AGENT_DIGITS)
                number, self.asked_extension = parse(typed, self.asked_extension)
                wrong = bool(typed)
                if not number:
                    continue
            try:
                state = await self.service.agent(number)
            except errors.NoSuchAgent as error:
                refusal, self.agent, number, wrong = error, number, "", True
                continue
            self.met(state)
            self.identified = state
            return state
        raise refusal

    asked_extension: str = ""  # the extension dialled or typed after a star

    async def prove(self, state: AgentState) -> None:
        """Asks for the PIN, once a call, when the agent has one. Raises NoInput, WrongPin, the
        lock-outs."""
        if state.pin_hash is None or self._proved == state.number:
            return
        refusal: errors.Refused = errors.NoInput()
        wrong = False  # what was typed last; nothing is not wrong
        for _ in range(self.settings.pin_tries):
            sound = prompts.ASK_PIN_AGAIN if wrong else prompts.ASK_PIN
            pin = await self.ask_number(sound, PIN_DIGITS)
            wrong = bool(pin)
            if not pin:
                continue
            try:
                await self.service.check_pin(state, pin, self.place)
            except errors.WrongPin as error:
                refusal = error
            else:
                self._proved = state.number
                return
        raise refusal

    _proved: str = ""  # the agent whose PIN was typed

    # -- what

    def command(self, kind: type[C], agent: str, **values: object) -> C:
        return self.service.command(kind, agent, Source.PHONE, self.actor, **values)

    async def carry_out(self, command: Command, take_over: bool = False) -> Outcome:
        """A caller who is gone before anything was begun begins nothing."""
        if self.session.gone:
            raise CallerHungUp
        change = await self.service.execute(
            command, hung_up=lambda: self.session.gone, take_over=take_over
        )
        self._remember(change)
        return change.outcome

    def _remember(self, change: Change) -> None:
        after = change.after
        if after.session:
            self.extension = after.session.device.extension
        self.reason = after.pause.reason if after.pause else None
        self.missing = tuple(m.number for m in change.missing if m.number)


async def login(call: Call) -> Outcome:
    number, call.asked_extension = parse(call.dialled, call.asked_extension)
    sits_at = call.caller.extension
    try:
        state = await call.identify(number)
        await call.prove(state)
        call.extension = call.asked_extension or sits_at
        device = call.device
        if call.extension != sits_at:
            device = resolve(call.settings.rules, call.extension, call.asterisk)
        if device is None:
            raise errors.NoSuchExtension(_no_rule(call))
        await call.service.may_log_in_at(state, device)
    except errors.Refused as refusal:
        await _note_refused_login(call, refusal)
        raise
    wanted = call.command(LogIn, state.number, device=device, move=call.settings.move)
    try:
        return await call.carry_out(wanted, call.settings.take_over)
    except errors.LoggedInElsewhere as refusal:
        call.extension = refusal.device.extension
        facts = Facts(agent=state.number, extension=call.extension)
        if not (call.settings.ask_to_move and await call.confirm(prompts.ASK_TO_MOVE, facts)):
            await call.service.record_refusal(wanted, refusal.outcome, call.session.gone)
            raise
    again = call.command(LogIn, state.number, device=device, move=True)
    return await call.carry_out(again, call.settings.take_over)


def _no_rule(call: Call) -> str:
    """For the log: why there is no such extension, and what can be done."""
    why = f"no device rule matches {call.extension or 'the caller, who has no extension'!r}"
    if call.asked_extension:
        return f"{why}, which was dialled"
    if call.settings.extension_from_endpoint:
        return f"{why}, the name of the endpoint; login.extension_from: caller_id?"
    return f"{why}, the caller ID; login.extension_from: endpoint?"


async def _note_refused_login(call: Call, refusal: errors.Refused) -> None:
    await call.service.record_refused_login(
        call.agent,
        call.asked_extension or call.caller.extension,
        call.device.context if call.device else "",
        call.actor,
        Source.PHONE,
        refusal.outcome,
    )


async def logoff(call: Call) -> Outcome:
    number, call.asked_extension = parse(call.dialled, call.asked_extension)
    here = await call.occupant()
    if number == "" and here is None and not call.elsewhere:
        raise errors.NotLoggedIn(call.extension)
    if here is not None and number in ("", here.number):
        state = here
        call.met(state)
    else:
        state = await call.identify(number)
        await call.prove(state)
    return await call.carry_out(
        call.command(LogOff, state.number, when_in_call=call.settings.when_in_call)
    )


async def pause(call: Call) -> Outcome:
    state = await call.agent_here()
    reason = call.wanted_reason = await _reason(call, call.dialled)
    return await call.carry_out(
        call.command(
            Pause, state.number, reason=reason, when_in_call=call.settings.pause_when_in_call
        )
    )


async def _reason(call: Call, dialled: str) -> PauseReason:
    reasons = {reason.code: reason for reason in await call.service.reasons()}
    digits = max(map(len, reasons), default=1)
    code, refusal = dialled, errors.NoInput() if not dialled else errors.NoSuchReason(dialled)
    for attempt in range(TRIES + 1):
        if code in reasons:
            return reasons[code]
        if attempt == TRIES or not reasons:
            break
        wrong = (prompts.WRONG_CHOICE,) if code else ()
        code = await call.ask_choice(wrong + prompts.menu(tuple(reasons)), digits)
        if code:
            refusal = errors.NoSuchReason(code)
    raise refusal


async def unpause(call: Call) -> Outcome:
    state = await call.agent_here()
    return await call.carry_out(call.command(Unpause, state.number))


async def toggle_login(call: Call) -> Outcome:
    number, call.asked_extension = parse(call.dialled, "")
    here = await call.occupant()
    if here is not None and number in ("", here.number):
        return await logoff(call)
    if call.elsewhere and not call.asked_extension:
        # Whether it is a login or a log-off depends on the agent, not on a phone.
        try:
            state = await call.identify(number)
        except errors.Refused as refusal:
            await _note_refused_login(call, refusal)
            raise
        if state.session is not None and not call.asked_extension:
            return await logoff(call)
    return await login(call)


async def toggle_pause(call: Call) -> Outcome:
    state = await call.agent_here()
    # A pause that is to follow the call is taken back like one that has begun.
    on = state.pause is not None or isinstance(state.planned, Pause)
    return await (unpause(call) if on else pause(call))


async def status(call: Call) -> Outcome:
    call.status_of = await call.agent_here()
    return Outcome.STATUS_TOLD


async def queue(call: Call) -> Outcome:
    state = await call.agent_here()
    number = call.dialled
    if not number:
        numbers = tuple(m.number for m in state.memberships)
        if not numbers:
            raise errors.NotAMember
        digits = max(map(len, numbers), default=1)
        for _ in range(TRIES):
            number = await call.ask_choice(prompts.queue_menu(numbers), digits)
            if number:
                break
        else:
            raise errors.NoInput
    call.queue = number
    name = await call.service.queue_numbered(number)
    if not any(m.queue == name for m in state.joined):
        return await call.carry_out(call.command(JoinQueue, state.number, queue=name))
    leave = call.command(LeaveQueue, state.number, queue=name)
    try:
        return await call.carry_out(leave)
    except errors.LastInQueue:
        if not await call.confirm(prompts.ASK_TO_LEAVE, Facts(queue=number)):
            raise
    return await call.carry_out(call.command(LeaveQueue, state.number, queue=name, confirmed=True))


async def busy(call: Call) -> Outcome:
    raise errors.Busy


class Patience:
    """Tells callers to wait who hear nothing, as the store or Asterisk is slow: never silence.

    One timer looks at all calls, so that a call which is answered at once pays nothing for it.
    """

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begins(self, call: Call) -> None:
        self._calls.add(call)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def ends(self, call: Call) -> None:
        self._calls.discard(call)

    def _look(self) -> None:
        self._timer = None
        for call in self._calls:
            session = call.session
            if call.reminding:
                continue
            if not session.idle or session.commands != call.commands_seen:
                call.commands_seen = session.commands
                call.looks, call.patient_for = 0, PLEASE_WAIT_AFTER
                continue
            call.looks += 1
            if call.looks >= call.patient_for:
                call.remind()
                call.looks, call.patient_for = 0, AND_AGAIN_AFTER
        if self._calls:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)


Feature = Callable[[Call], Awaitable[Outcome]]
Called = Callable[[str, str, float], None]  # script, outcome or "", seconds

FEATURES: dict[Script, Feature] = {
    Script.LOGIN: login,
    Script.LOGOFF: logoff,
    Script.PAUSE: pause,
    Script.UNPAUSE: unpause,
    Script.STATUS: status,
    Script.QUEUE: queue,
    Script.TOGGLE_LOGIN: toggle_login,
    Script.TOGGLE_PAUSE: toggle_pause,
}


def handlers(
    service: AgentService,
    settings: Callable[[], PhoneSettings],
    called: Called = lambda script, outcome, seconds: None,
) -> dict[str, Callable[[Session], Awaitable[None]]]:
    """What the server calls, by script path; BUSY answers a call too many.

    ``settings`` is asked at each call, so that a reload holds from the next call on.
    """
    features: Iterable[tuple[str, Feature]] = (*FEATURES.items(), (BUSY, busy))
    patience = Patience()

    def new_call(session: Session) -> Call:
        return Call(session, service, settings())

    return {
        str(script): partial(_run, script, feature, new_call, called, patience)
        for script, feature in features
    }


async def unknown(session: Session) -> None:
    """A script nobody knows: the dialplan is another version's, or is not ours."""
    log.error("no such script", script=printable(session.request.script)[:SHOWN])
    try:
        await session.answer()
        for sound in prompts.ANSWERS[Outcome.UNAVAILABLE]:
            try:
                await session.stream_file(sound)
            except SoundMissing:
                await session.stream_file(prompts.LAST_RESORT)
    finally:
        await session.set_variable(Variable.STATUS, Outcome.UNAVAILABLE.value)


async def _run(
    script: str,
    feature: Feature,
    new_call: Callable[[Session], Call],
    called: Called,
    patience: Patience,
    session: Session,
) -> None:
    began = time.perf_counter()
    call = new_call(session)
    patience.begins(call)
    outcome: Outcome | None = None
    ended = "answered"
    try:
        try:
            with wait_at_most():
                if feature is busy:
                    call.at_first_sight()
                else:
                    await call.recognise()
                outcome = await feature(call)
        except errors.Refused as refusal:
            outcome = refusal.outcome
            if isinstance(refusal, EXPLAINED):
                log.warning(
                    "refused",
                    script=script,
                    outcome=outcome.value,
                    agent=call.agent,
                    extension=call.extension,
                    channel=call.actor.channel,
                    why=printable(str(refusal)),
                )
            await _of(call, refusal)
        except (CallerHungUp, ConnectionLost, SessionTimeout):
            raise
        except CommandFailed as error:
            why = printable(str(error))
            log.warning("Asterisk refused a command of this call", script=script, why=why)
            outcome = Outcome.UNAVAILABLE
        except Exception as error:
            # The caller is told, whatever went wrong in here; never silence.
            call.service.fence.skipped("calls", error, script=script, agent=call.agent)
            outcome = Outcome.UNAVAILABLE
        try:
            await call.say(_last_words(call, outcome))
        finally:
            await call.free()
            await _set_variables(call, outcome)
    except CallerHungUp:
        ended = "hung up"
    except SessionTimeout:
        ended = "deadline"
    except (ConnectionLost, CommandFailed) as error:
        ended = type(error).__name__
    finally:
        patience.ends(call)
    seconds = time.perf_counter() - began
    called(script, outcome.value if outcome else "", seconds)
    log.info(
        "call",
        script=script,
        outcome=outcome.value if outcome else "",
        agent=call.agent,
        extension=call.extension,
        channel=call.actor.channel,
        ended=ended,
        ms=round(seconds * 1000, 1),
    )


# Refusals that an admin may have to do something about.
EXPLAINED = (
    errors.Unavailable,
    errors.QueueRefused,
    errors.NotFromHere,
    errors.NoSuchExtension,
    errors.NumberNotAllowed,
)


async def _of(call: Call, refusal: errors.Refused) -> None:
    """What the answer to this refusal speaks of."""
    if isinstance(refusal, errors.LoggedInElsewhere):
        call.extension = refusal.device.extension
    elif isinstance(refusal, errors.ExtensionLocked):
        call.extension = call.caller.extension  # not where the agent is
    elif isinstance(refusal, errors.ExtensionInUse):
        call.occupant_there = refusal.occupant
    elif isinstance(refusal, errors.QueueRefused) and refusal.queues and not call.queue:
        with suppress(errors.Unavailable):  # the answer does without
            call.queue = await call.service.number_of_queue(refusal.queues[0])


def _last_words(call: Call, outcome: Outcome) -> Phrase:
    chosen = call.settings.prompts
    if call.status_of is not None and outcome not in chosen:
        return prompts.status(call.status_of, call.service.now())
    # Of these outcomes the reason is that of a pause which has not begun.
    wanted = outcome in (Outcome.PAUSE_AFTER_CALL, Outcome.PAUSE_SPENT)
    reason = call.wanted_reason if wanted else call.reason
    facts = Facts(
        agent=call.agent,
        extension=call.extension,
        queue=call.queue,
        reason=reason.code if reason else "",
        occupant=call.occupant_there,
    )
    return (*prompts.answer(outcome, facts, chosen), *prompts.missing_queues(call.missing))


async def _set_variables(call: Call, outcome: Outcome) -> None:
    values = {
        Variable.NUMBER: call.agent,
        Variable.EXTENSION: call.extension,
        Variable.PAUSE_REASON: call.reason.name if call.reason else "",
        Variable.STATUS: outcome.value,
    }
    try:
        if all(_PLAIN.fullmatch(value) for value in values.values()):
            # MSet sets in the order given: one command instead of four.
            pairs = ",".join(f"{name}={value}" for name, value in values.items())
            await call.session.execute("MSet", pairs)
        else:
            for name, value in values.items():
                await call.session.set_variable(name, value)
    except (CommandFailed, ConnectionLost, SessionTimeout) as error:
        log.debug("the result could not be set", error=type(error).__name__)


def parse(dialled: str, extension: str) -> tuple[str, str]:
    """``<agent>*<extension>``, either part of it; anything else is as if nothing was dialled."""
    match = _DIALLED.fullmatch(dialled)
    if match is None:
        return "", extension
    return match["number"], match["extension"] or extension


def asterisk_in(query: str, names: Collection[str]) -> str:
    """The Asterisk that calls, by its name in ``agi://HOST/agent/login?asterisk=NAME``; "" where
    it names none that there is."""
    try:
        named = dict(parse_qsl(query, max_num_fields=10)).get("asterisk", "") if query else ""
    except ValueError:
        return ""
    return named if named in names else ""
