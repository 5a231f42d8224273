"""The codes: one coroutine per AGI script; the table FEATURES is the whole of the phone.

Each call runs the same way: find out who and what, asking where it was not dialled; let the hall
carry it out; speak the outcome; set the channel variables, AGENT_STATUS the last.
"""

import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import structlog

from fastagi.agents import errors
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
from fastagi.agents.devices import Device, DeviceRule, endpoint_of, is_extension, resolve
from fastagi.agents.model import AgentState, Change
from fastagi.agents.service import AgentService
from fastagi.agi import prompts
from fastagi.agi.prompts import Digits, Facts, Number, Phrase
from fastagi.agi.protocol import printable
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

_DIALLED = re.compile(r"(?P<number>[0-9]{0,20})(?:\*(?P<extension>[0-9]{1,40}))?")
_PLAIN = re.compile(r"[A-Za-z0-9_ .+-]*")


@dataclass(frozen=True, slots=True)
class PhoneSettings:
    """The admin's choices for calls from phones."""

    rules: tuple[DeviceRule, ...]
    extension_from_endpoint: bool = True
    pin_tries: int = 3
    ask_to_move: bool = True  # when the agent is logged in elsewhere
    move: bool = False  # without asking
    take_over: bool = False
    when_in_call: WhenInCall = WhenInCall.AFTER_CALL  # a log-off
    pause_when_in_call: WhenInCall = WhenInCall.ALLOW
    prompts: Mapping[Outcome, tuple[str, ...]] = field(default_factory=dict)


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
        own = endpoint_of(request.channel) if settings.extension_from_endpoint else request.callerid
        self.own_extension = own if is_extension(own) else ""
        self.asterisk = asterisk_in(request.query, service.queues.names)
        # What the answer and the channel variables speak of.
        self.agent = ""
        self.extension = self.own_extension
        self.queue = ""
        self.missing: tuple[str, ...] = ()  # numbers of the agent's queues that Asterisk lacks
        self.reason: PauseReason | None = None
        self.wanted_reason: PauseReason | None = None  # of a pause that was asked for
        self.status_of: AgentState | None = None
        self._answered = False
        self._language = self._wanted = request.language

    # -- speaking and asking

    async def _answer(self) -> None:
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
        try:
            return (await self.session.get_data(sound, int(ANSWER_WITHIN * 1000), digits)).text
        except SoundMissing:
            return await self._collect(await self._beep(sound, "0123456789*"), digits)

    async def ask_choice(self, phrase: Phrase, digits: int) -> str:
        """Like ask_number for a phrase of several sounds."""
        return await self._collect(await self.say(phrase, "0123456789*#"), digits)

    async def _collect(self, first: str, digits: int) -> str:
        pressed = first or await self.session.wait_for_digit(int(ANSWER_WITHIN * 1000))
        text = ""
        while pressed and pressed != "#":
            text += pressed
            if len(text) >= digits:
                break
            pressed = await self.session.wait_for_digit(int(NEXT_DIGIT_WITHIN * 1000))
        return text

    async def confirm(self, template: tuple[str, ...], facts: Facts) -> bool:
        """Whether 1 was pressed. Who hangs up at the question has said no."""
        try:
            return await self.ask_choice(prompts.fill(template, facts), 1) == "1"
        except (CallerHungUp, ConnectionLost):  # Asterisk tells the one and does the other at once
            return False

    # -- who

    @property
    def device(self) -> Device | None:
        """The queue member that this phone is; None where no rule makes it one."""
        return resolve(self.settings.rules, self.own_extension, self.asterisk)

    async def occupant(self) -> AgentState | None:
        """The agent who is logged in on this phone, if any; also where the device rule that made
        it a queue member is gone, or makes another one of it by now."""
        device = self.device
        state = None if device is None else await self.service.agent_at(device)
        if state is None and self.own_extension:
            state = await self.service.agent_with_extension(self.own_extension, self.asterisk)
        return state

    async def agent_here(self) -> AgentState:
        """The same; raises NotLoggedIn where there is none."""
        state = await self.occupant()
        if state is None:
            raise errors.NotLoggedIn(self.own_extension)
        self.met(state)
        return state

    def met(self, state: AgentState) -> None:
        self.agent = state.number
        if state.session:
            self.extension = state.session.device.extension
        self.reason = state.pause.reason if state.pause else None
        self.use_language(state.language)

    async def identify(self, number: str) -> AgentState:
        """The agent with this number, asked for when empty or unknown."""
        refusal: errors.Refused = errors.NoInput()
        for attempt in range(TRIES):
            if not number:
                sound = prompts.ASK_AGENT_AGAIN if attempt and self.agent else prompts.ASK_AGENT
                typed = await self.ask_number(sound, AGENT_DIGITS)
                number, self.asked_extension = parse(typed, self.asked_extension)
                if not number:
                    continue
            try:
                state = await self.service.agent(number)
            except errors.NoSuchAgent as error:
                refusal, self.agent, number = error, number, ""
                continue
            self.met(state)
            return state
        raise refusal

    asked_extension: str = ""  # the extension dialled or typed after a star

    async def prove(self, state: AgentState) -> None:
        """Asks for the PIN when the agent has one. Raises NoInput, WrongPin, the lock-outs."""
        if state.pin_hash is None:
            return None
        refusal: errors.Refused = errors.NoInput()
        for attempt in range(self.settings.pin_tries):
            sound = prompts.ASK_PIN_AGAIN if attempt else prompts.ASK_PIN
            pin = await self.ask_number(sound, PIN_DIGITS)
            if not pin:
                continue
            try:
                return await self.service.check_pin(state, pin, self.own_extension)
            except errors.WrongPin as error:
                refusal = error
        raise refusal

    # -- what

    def command(self, kind: type[Command], agent: str, **values: object) -> Command:
        return kind(
            id=self.service.new_id(),
            agent=agent,
            source=Source.PHONE,
            actor=self.actor,
            **values,
        )

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
    number, call.asked_extension = parse(call.dialled, "")
    try:
        state = await call.identify(number)
        await call.prove(state)
        call.extension = call.asked_extension or call.own_extension
        device = resolve(call.settings.rules, call.extension, call.asterisk)
        if device is None:
            raise errors.NoSuchExtension(call.extension)
    except errors.Refused as refusal:
        await _note_refused_login(call, refusal)
        raise
    wanted = call.command(LogIn, state.number, device=device, move=call.settings.move)
    assert isinstance(wanted, LogIn)
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


async def _note_refused_login(call: Call, refusal: errors.Refused) -> None:
    device = call.device
    await call.service.record_refused_login(
        call.agent,
        call.asked_extension or call.own_extension,
        device.context if device else "",
        call.actor,
        Source.PHONE,
        refusal.outcome,
    )


async def logoff(call: Call) -> Outcome:
    number, _ = parse(call.dialled, "")
    here = await call.occupant()
    if number == "" and here is None and call.device is not None:
        raise errors.NotLoggedIn(call.own_extension)
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
    number, _ = parse(call.dialled, "")
    here = await call.occupant()
    if here is not None and number in ("", here.number):
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

    def handler(script: str, feature: Feature) -> Callable[[Session], Awaitable[None]]:
        async def handle(session: Session) -> None:
            await _run(script, feature, Call(session, service, settings()), called)

        return handle

    return {str(script): handler(script, feature) for script, feature in features}


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


async def _run(script: str, feature: Feature, call: Call, called: Called) -> None:
    began = time.perf_counter()
    outcome: Outcome | None = None
    ended = "answered"
    try:
        try:
            outcome = await feature(call)
        except errors.Refused as refusal:
            outcome = refusal.outcome
            if isinstance(refusal, errors.Unavailable | errors.QueueRefused):
                log.warning("refused", script=script, outcome=outcome.value, why=str(refusal))
            if isinstance(refusal, errors.QueueMissing):
                call.queue = refusal.numbers[0]
            if isinstance(refusal, errors.LoggedInElsewhere):
                call.extension = refusal.device.extension
            if isinstance(refusal, errors.ExtensionLocked):
                call.extension = call.own_extension  # not where the agent is
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
            await _set_variables(call, outcome)
    except CallerHungUp:
        ended = "hung up"
    except SessionTimeout:
        ended = "deadline"
    except (ConnectionLost, CommandFailed) as error:
        ended = type(error).__name__
    seconds = time.perf_counter() - began
    called(script, outcome.value if outcome else "", seconds)
    log.info(
        "call",
        script=script,
        outcome=outcome.value if outcome else "",
        agent=call.agent,
        channel=call.actor.channel,
        ended=ended,
        ms=round(seconds * 1000, 1),
    )


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
