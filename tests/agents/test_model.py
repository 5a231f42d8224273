"""The rules, as one table: what each command does to an agent in each state."""

import copy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents import errors
from fastagi.agents.commands import (
    COMMANDS,
    NO_FACTS,
    Actor,
    AddToQueue,
    Adopt,
    AssignPenalty,
    ChangePenalty,
    Command,
    Facts,
    JoinQueue,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Relog,
    RemoveFromQueue,
    Seen,
    Unpause,
    WhenInCall,
)
from fastagi.agents.differences import undo
from fastagi.agents.errors import Refused
from fastagi.agents.model import (
    TABLE,
    AgentState,
    Change,
    LoginSession,
    Membership,
    OwnPause,
    PauseSegment,
    Status,
    decide,
)
from fastagi.agents.operations import AddMember, Answer, PauseMember, RemoveMember, SetPenalty
from fastagi.contract import EventType, Outcome, Source

from .memory import BREAK, LUNCH, NOON, QUEUES, Member, an_agent, apply, device

SINCE = NOON - timedelta(minutes=90)
ACTOR = Actor(channel="PJSIP/1001-00000001", caller_id="1001", unique_id="1.1")
SALES_AND_SUPPORT = an_agent("1001", "sales", "support")  # with penalties 0 and 1


def joined(state: AgentState, *queues: str) -> AgentState:
    return replace(
        state,
        memberships=tuple(replace(m, joined=m.queue in queues) for m in state.memberships),
    )


OFF = SALES_AND_SUPPORT
IN = joined(replace(OFF, session=LoginSession("login", device("1001"), SINCE)), "sales", "support")
IN_SALES_ONLY = joined(IN, "sales")
IN_NONE = joined(IN)
PAUSED = replace(IN, pause=PauseSegment("pause", LUNCH, SINCE))
PAUSED_IN_NONE = joined(PAUSED)
PAUSED_IN_SALES = joined(PAUSED, "sales")
NO_QUEUES = replace(OFF, memberships=())
PENALTIES = {"sales": 0, "support": 1, "billing": 2}


def own(state: AgentState, queue: str, **its_own: Any) -> AgentState:
    """Somebody changed this in the one queue."""
    return replace(
        state,
        memberships=tuple(
            replace(m, **its_own) if m.queue == queue else m for m in state.memberships
        ),
    )


RINGING = OwnPause(True, "no answer")
NOT_HERE = OwnPause(False)
IN_OWN_PAUSE = own(IN, "support", own_pause=RINGING)
PAUSED_BUT_IN_SALES = own(PAUSED, "sales", own_pause=NOT_HERE)
IN_OWN_PENALTY = own(IN, "support", own_penalty=7)


def command(kind: type[Command], **values: Any) -> Command:
    return kind(id="c", agent="1001", source=Source.PHONE, actor=ACTOR, **values)


LATER = command(LogOff, when_in_call=WhenInCall.AFTER_CALL)
LEAVING_LATER = replace(IN, planned=LATER)  # type: ignore[arg-type]
BREAK_LATER = command(Pause, reason=BREAK, when_in_call=WhenInCall.AFTER_CALL)
PAUSING_LATER = replace(IN, planned=BREAK_LATER)  # type: ignore[arg-type]
PAUSED_PAUSING_LATER = replace(PAUSED, planned=BREAK_LATER)  # type: ignore[arg-type]


def in_asterisk(*members: Seen) -> Command:
    return command(Adopt, members=members, device=device("1001"), reasons=(LUNCH, BREAK))


def seen(queue: str, reason: str | None = None, penalty: int | None = None) -> Seen:
    """As Asterisk reports it; ``reason=None``: not paused."""
    its = PENALTIES[queue] if penalty is None else penalty
    return Seen(queue, QUEUES[queue], its, reason is not None, reason or "")


def log_in(at: str, move: bool = False) -> Command:
    return command(LogIn, device=device(at), move=move)


def add(queue: str, at: str = "1001", reason: str = "") -> AddMember:
    penalty = PENALTIES[queue]
    interface = f"PJSIP/{at}"
    return AddMember(queue, interface, interface, "Agent/1001", penalty, bool(reason), reason)


def remove(queue: str, at: str = "1001") -> RemoveMember:
    return RemoveMember(queue, f"PJSIP/{at}")


def said(paused: bool, reason: str = "", queue: str = "") -> PauseMember:
    return PauseMember("PJSIP/1001", paused, reason, queue)


@dataclass(frozen=True)
class Row:
    """``events``: type, reason, extension and queues of each."""

    name: str
    state: AgentState
    command: Command
    outcome: Outcome
    operations: tuple[object, ...] = ()
    events: tuple[tuple[EventType, str, str, tuple[str, ...]], ...] = ()
    after: AgentState | None = None  # None: nothing changes
    refused: type[Refused] | None = None
    occupant: str | None = field(default=None)
    facts: Facts = NO_FACTS


LOGIN, LOGOUT = EventType.LOGIN, EventType.LOGOUT
BOTH = ("sales", "support")
HERE = LoginSession("c", device("1001"), NOON)
THERE = LoginSession("c", device("1002"), NOON)
NOW_PAUSED = PauseSegment("c", LUNCH, NOON)
ON_BREAK = PauseSegment("c", BREAK, NOON)

ROWS = [
    # -- login
    Row(
        "log in: all queues",
        OFF, log_in("1001"), Outcome.LOGGED_IN,
        (add("sales"), add("support")),
        ((LOGIN, "", "1001", BOTH),),
        replace(IN, session=HERE),
    ),
    Row(
        "log in without any queue",
        NO_QUEUES, log_in("1001"), Outcome.LOGGED_IN,
        (), ((LOGIN, "", "1001", ()),), replace(NO_QUEUES, session=HERE),
    ),
    Row("log in again, same phone", IN, log_in("1001"), Outcome.ALREADY_LOGGED_IN),
    Row("log in again, paused", PAUSED, log_in("1001"), Outcome.ALREADY_LOGGED_IN),
    Row(
        "log in again takes back a planned log-off",
        LEAVING_LATER, log_in("1001"), Outcome.ALREADY_LOGGED_IN, after=IN,
    ),
    Row(
        "log in again leaves a planned pause",
        PAUSING_LATER, log_in("1001"), Outcome.ALREADY_LOGGED_IN,
    ),
    Row(
        "the interface's letter case does not matter",
        IN,
        command(LogIn, device=replace(device("1001"), interface="pjsip/1001")),
        Outcome.ALREADY_LOGGED_IN,
    ),
    Row(
        "log in elsewhere", IN, log_in("1002"), Outcome.LOGGED_IN_ELSEWHERE,
        refused=errors.LoggedInElsewhere,
    ),
    Row(
        "move: the new place first",
        IN, log_in("1002", move=True), Outcome.MOVED,
        (add("sales", "1002"), add("support", "1002"), remove("sales"), remove("support")),
        ((LOGOUT, "moved", "1001", BOTH), (LOGIN, "moved", "1002", BOTH)),
        replace(IN, session=THERE),
    ),
    Row(
        "move keeps pause, reason and queues",
        PAUSED_IN_SALES, log_in("1002", move=True), Outcome.MOVED,
        (add("sales", "1002", "lunch"), remove("sales")),
        ((LOGOUT, "moved", "1001", ("sales",)), (LOGIN, "moved", "1002", ("sales",))),
        replace(PAUSED_IN_SALES, session=THERE),
    ),
    Row(
        "move takes back a planned log-off, as logging in again does",
        LEAVING_LATER, log_in("1002", move=True), Outcome.MOVED,
        (add("sales", "1002"), add("support", "1002"), remove("sales"), remove("support")),
        ((LOGOUT, "moved", "1001", BOTH), (LOGIN, "moved", "1002", BOTH)),
        replace(IN, session=THERE),
    ),
    Row(
        "another's phone", OFF, log_in("1002"), Outcome.EXTENSION_IN_USE,
        refused=errors.ExtensionInUse, occupant="1002",
    ),
    Row(
        "move to another's phone", IN, log_in("1002", move=True), Outcome.EXTENSION_IN_USE,
        refused=errors.ExtensionInUse, occupant="1002",
    ),
    # -- log-off
    Row(
        "log off", IN, command(LogOff), Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "", "1001", BOTH),), OFF,
    ),
    Row(
        "log off ends the pause", PAUSED, command(LogOff), Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "", "1001", BOTH),), OFF,
    ),
    Row(
        "log off leaves only what was joined", IN_SALES_ONLY, command(LogOff), Outcome.LOGGED_OFF,
        (remove("sales"),), ((LOGOUT, "", "1001", ("sales",)),), OFF,
    ),
    Row(
        "log off says why", IN, command(LogOff, reason="taken over"), Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "taken over", "1001", BOTH),), OFF,
    ),
    Row(
        "log off in a call: later", IN, LATER, Outcome.LOGOFF_AFTER_CALL, after=LEAVING_LATER,
        facts=Facts(in_call=True),
    ),
    Row(
        "log off in a call: refused", IN,
        command(LogOff, when_in_call=WhenInCall.REFUSE), Outcome.IN_CALL,
        refused=errors.InCall,
        facts=Facts(in_call=True),
    ),
    Row(
        "log off in a call: at once", IN,
        command(LogOff, when_in_call=WhenInCall.ALLOW), Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "", "1001", BOTH),), OFF,
        facts=Facts(in_call=True),
    ),
    Row(
        "log off after the call, and there is none", IN,
        command(LogOff, when_in_call=WhenInCall.AFTER_CALL), Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "", "1001", BOTH),), OFF,
    ),
    Row(
        "log off at once, though one was planned", LEAVING_LATER, command(LogOff),
        Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "", "1001", BOTH),), OFF,
    ),
    Row(
        "log off twice", OFF, command(LogOff), Outcome.NOT_LOGGED_IN, refused=errors.NotLoggedIn
    ),
    # -- pause
    Row(
        "pause", IN, command(Pause, reason=LUNCH), Outcome.PAUSED,
        (said(True, "lunch"),), ((EventType.PAUSE, "lunch", "1001", BOTH),),
        replace(IN, pause=NOW_PAUSED),
    ),
    Row(
        "pause in no queue: Asterisk knows no such interface",
        IN_NONE, command(Pause, reason=LUNCH), Outcome.PAUSED,
        (), ((EventType.PAUSE, "lunch", "1001", ()),), replace(IN_NONE, pause=NOW_PAUSED),
    ),
    Row("pause, same reason", PAUSED, command(Pause, reason=LUNCH), Outcome.ALREADY_PAUSED),
    Row(
        "pause, renamed reason", PAUSED, command(Pause, reason=PauseReason("1", "Lunch break")),
        Outcome.ALREADY_PAUSED,
    ),
    Row(
        "pause, another reason: a new segment",
        PAUSED, command(Pause, reason=BREAK), Outcome.PAUSE_REASON_CHANGED,
        (said(True, "break"),), ((EventType.PAUSE, "break", "1001", BOTH),),
        replace(PAUSED, pause=ON_BREAK),
    ),
    Row(
        "pause while a log-off is planned keeps the plan",
        LEAVING_LATER, command(Pause, reason=LUNCH), Outcome.PAUSED,
        (said(True, "lunch"),), ((EventType.PAUSE, "lunch", "1001", BOTH),),
        replace(LEAVING_LATER, pause=NOW_PAUSED),
    ),
    Row(
        "pause in a call: later", IN, BREAK_LATER, Outcome.PAUSE_AFTER_CALL, after=PAUSING_LATER,
        facts=Facts(in_call=True),
    ),
    Row(
        "pause in a call while a log-off is planned: the log-off stays",
        LEAVING_LATER, BREAK_LATER, Outcome.LOGOFF_AFTER_CALL,
        facts=Facts(in_call=True),
    ),
    Row(
        "another pause in a call: later", PAUSED, BREAK_LATER, Outcome.PAUSE_AFTER_CALL,
        after=PAUSED_PAUSING_LATER,
        facts=Facts(in_call=True),
    ),
    Row(
        "the same pause in a call needs no waiting", PAUSED,
        command(Pause, reason=LUNCH, when_in_call=WhenInCall.AFTER_CALL),
        Outcome.ALREADY_PAUSED,
        facts=Facts(in_call=True),
    ),
    Row(
        "pause in a call: refused", IN,
        command(Pause, reason=LUNCH, when_in_call=WhenInCall.REFUSE),
        Outcome.IN_CALL, refused=errors.InCall,
        facts=Facts(in_call=True),
    ),
    Row(
        "pause in a call: at once", IN,
        command(Pause, reason=LUNCH, when_in_call=WhenInCall.ALLOW), Outcome.PAUSED,
        (said(True, "lunch"),), ((EventType.PAUSE, "lunch", "1001", BOTH),),
        replace(IN, pause=NOW_PAUSED),
        facts=Facts(in_call=True),
    ),
    Row(
        "pause after the call, and there is none", IN,
        command(Pause, reason=LUNCH, when_in_call=WhenInCall.AFTER_CALL), Outcome.PAUSED,
        (said(True, "lunch"),), ((EventType.PAUSE, "lunch", "1001", BOTH),),
        replace(IN, pause=NOW_PAUSED),
    ),
    Row(
        "pause, the day's budget is used up", IN, command(Pause, reason=LUNCH),
        Outcome.PAUSE_SPENT, refused=errors.PauseSpent,
        facts=Facts(over_budget=True),
    ),
    Row(
        "pause in a call, the budget is used up: said at once", IN,
        command(Pause, reason=LUNCH, when_in_call=WhenInCall.AFTER_CALL),
        Outcome.PAUSE_SPENT, refused=errors.PauseSpent,
        facts=Facts(in_call=True, over_budget=True),
    ),
    Row(
        "the budget is used up, but that pause is the one of now", PAUSED,
        command(Pause, reason=LUNCH), Outcome.ALREADY_PAUSED,
        facts=Facts(over_budget=True),
    ),
    Row(
        "pause at once, though one was planned", PAUSING_LATER, command(Pause, reason=LUNCH),
        Outcome.PAUSED,
        (said(True, "lunch"),), ((EventType.PAUSE, "lunch", "1001", BOTH),),
        replace(IN, pause=NOW_PAUSED),
    ),
    Row(
        "paused already: what was planned is not wanted any more", PAUSED_PAUSING_LATER,
        command(Pause, reason=LUNCH), Outcome.ALREADY_PAUSED, after=PAUSED,
    ),
    Row(
        "pause where one queue had a pause of its own: each queue for itself",
        IN_OWN_PAUSE, command(Pause, reason=LUNCH), Outcome.PAUSED,
        (said(True, "lunch", "sales"), said(True, "lunch", "support")),
        ((EventType.PAUSE, "lunch", "1001", BOTH),), replace(IN, pause=NOW_PAUSED),
    ),
    Row(
        "pause again where somebody had ended it in one queue: the segment goes on",
        PAUSED_BUT_IN_SALES, command(Pause, reason=LUNCH), Outcome.PAUSED,
        (said(True, "lunch", "sales"), said(True, "lunch", "support")),
        ((EventType.PAUSE, "lunch", "1001", BOTH),), PAUSED,
    ),
    Row(
        "pause for another reason where somebody had ended it in one queue",
        PAUSED_BUT_IN_SALES, command(Pause, reason=BREAK), Outcome.PAUSE_REASON_CHANGED,
        (said(True, "break", "sales"), said(True, "break", "support")),
        ((EventType.PAUSE, "break", "1001", BOTH),), replace(PAUSED, pause=ON_BREAK),
    ),
    Row(
        "pause, not logged in", OFF, command(Pause, reason=LUNCH), Outcome.NOT_LOGGED_IN,
        refused=errors.NotLoggedIn,
    ),
    Row(
        "unpause", PAUSED, command(Unpause), Outcome.UNPAUSED,
        (said(False),), ((EventType.UNPAUSE, "lunch", "1001", BOTH),), IN,
    ),
    Row(
        "unpause in no queue", PAUSED_IN_NONE, command(Unpause), Outcome.UNPAUSED,
        (), ((EventType.UNPAUSE, "lunch", "1001", ()),), IN_NONE,
    ),
    Row("unpause, not paused", IN, command(Unpause), Outcome.NOT_PAUSED),
    Row(
        "unpause takes back a planned pause", PAUSING_LATER, command(Unpause), Outcome.NOT_PAUSED,
        after=IN,
    ),
    Row(
        "unpause ends this pause and takes back the next", PAUSED_PAUSING_LATER, command(Unpause),
        Outcome.UNPAUSED, (said(False),), ((EventType.UNPAUSE, "lunch", "1001", BOTH),), IN,
    ),
    Row("unpause keeps a planned log-off", LEAVING_LATER, command(Unpause), Outcome.NOT_PAUSED),
    Row(
        "unpause where only one queue was paused", IN_OWN_PAUSE, command(Unpause),
        Outcome.UNPAUSED, (said(False, "", "sales"), said(False, "", "support")),
        ((EventType.UNPAUSE, "no answer", "1001", ("support",)),), IN,
    ),
    Row(
        "unpause where one queue was not paused any more", PAUSED_BUT_IN_SALES, command(Unpause),
        Outcome.UNPAUSED, (said(False, "", "sales"), said(False, "", "support")),
        ((EventType.UNPAUSE, "lunch", "1001", ("support",)),), IN,
    ),
    Row(
        "unpause, not logged in", OFF, command(Unpause), Outcome.NOT_LOGGED_IN,
        refused=errors.NotLoggedIn,
    ),
    # -- one queue
    Row(
        "join", IN_SALES_ONLY, command(JoinQueue, queue="support"), Outcome.QUEUE_JOINED,
        (add("support"),), ((EventType.QUEUE_JOIN, "", "1001", ("support",)),), IN,
    ),
    Row(
        "join, paused", PAUSED_IN_SALES, command(JoinQueue, queue="support"), Outcome.QUEUE_JOINED,
        (add("support", reason="lunch"),),
        ((EventType.QUEUE_JOIN, "", "1001", ("support",)),), PAUSED,
    ),
    Row("join, there already", IN, command(JoinQueue, queue="sales"), Outcome.QUEUE_JOINED),
    Row(
        "join, none of the agent's", IN, command(JoinQueue, queue="billing"), Outcome.NOT_A_MEMBER,
        refused=errors.NotAMember,
    ),
    Row(
        "join, not logged in", OFF, command(JoinQueue, queue="sales"), Outcome.NOT_LOGGED_IN,
        refused=errors.NotLoggedIn,
    ),
    Row(
        "leave", IN, command(LeaveQueue, queue="support"), Outcome.QUEUE_LEFT,
        (remove("support"),), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),), IN_SALES_ONLY,
    ),
    Row(
        "leave, paused", PAUSED, command(LeaveQueue, queue="support"), Outcome.QUEUE_LEFT,
        (remove("support"),), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),),
        PAUSED_IN_SALES,
    ),
    Row(
        "leave as the last", IN, command(LeaveQueue, queue="sales"),
        Outcome.LAST_IN_QUEUE, refused=errors.LastInQueue,
        facts=Facts(last_in_queue=True),
    ),
    Row(
        "leave as the last, confirmed", IN,
        command(LeaveQueue, queue="support", confirmed=True), Outcome.QUEUE_LEFT,
        (remove("support"),), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),), IN_SALES_ONLY,
        facts=Facts(last_in_queue=True),
    ),
    Row(
        "leave, not there", IN_SALES_ONLY, command(LeaveQueue, queue="support"),
        Outcome.QUEUE_LEFT,
    ),
    Row(
        "leave, none of the agent's", IN, command(LeaveQueue, queue="billing"),
        Outcome.NOT_A_MEMBER, refused=errors.NotAMember,
    ),
    Row(
        "leave, not logged in", OFF, command(LeaveQueue, queue="sales"), Outcome.NOT_LOGGED_IN,
        refused=errors.NotLoggedIn,
    ),
    Row(
        "leave ends what was the queue's own", IN_OWN_PAUSE, command(LeaveQueue, queue="support"),
        Outcome.QUEUE_LEFT,
        (remove("support"),), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),), IN_SALES_ONLY,
    ),
    Row(
        "log off ends what was the queue's own", IN_OWN_PENALTY, command(LogOff),
        Outcome.LOGGED_OFF,
        (remove("sales"), remove("support")), ((LOGOUT, "", "1001", BOTH),), OFF,
    ),
    Row(
        "move takes along what is the queue's own",
        own(PAUSED_BUT_IN_SALES, "support", own_penalty=7), log_in("1002", move=True),
        Outcome.MOVED,
        (
            add("sales", "1002"),
            replace(add("support", "1002", "lunch"), penalty=7),
            remove("sales"),
            remove("support"),
        ),
        ((LOGOUT, "moved", "1001", BOTH), (LOGIN, "moved", "1002", BOTH)),
        replace(own(PAUSED_BUT_IN_SALES, "support", own_penalty=7), session=THERE),
    ),
    # -- a penalty
    Row(
        "another penalty: the queue's own", IN,
        command(ChangePenalty, queue="support", penalty=7), Outcome.QUEUE_JOINED,
        (SetPenalty("support", "PJSIP/1001", 7),),
        ((EventType.QUEUE_PENALTY, "7", "1001", ("support",)),), IN_OWN_PENALTY,
    ),
    Row(
        "the agent's own penalty again", IN_OWN_PENALTY,
        command(ChangePenalty, queue="support", penalty=1), Outcome.QUEUE_JOINED,
        (SetPenalty("support", "PJSIP/1001", 1),),
        ((EventType.QUEUE_PENALTY, "1", "1001", ("support",)),), IN,
    ),
    Row(
        "another penalty, paused", PAUSED,
        command(ChangePenalty, queue="sales", penalty=7), Outcome.QUEUE_JOINED,
        (SetPenalty("sales", "PJSIP/1001", 7),),
        ((EventType.QUEUE_PENALTY, "7", "1001", ("sales",)),), own(PAUSED, "sales", own_penalty=7),
    ),
    Row(
        "the penalty there is", IN, command(ChangePenalty, queue="support", penalty=1),
        Outcome.QUEUE_JOINED,
    ),
    Row(
        "a penalty where the agent is not now", IN_SALES_ONLY,
        command(ChangePenalty, queue="support", penalty=7), Outcome.QUEUE_JOINED,
    ),
    Row(
        "a penalty in none of the agent's", IN,
        command(ChangePenalty, queue="billing", penalty=7), Outcome.NOT_A_MEMBER,
        refused=errors.NotAMember,
    ),
    Row(
        "a penalty, not logged in", OFF, command(ChangePenalty, queue="sales", penalty=7),
        Outcome.NOT_LOGGED_IN, refused=errors.NotLoggedIn,
    ),
    # -- whose queue it is
    Row(
        "a queue more, in at once", IN,
        command(AddToQueue, queue="billing", number="703", penalty=2), Outcome.QUEUE_JOINED,
        (add("billing"),), ((EventType.QUEUE_JOIN, "", "1001", ("billing",)),),
        replace(IN, memberships=(*IN.memberships, Membership("billing", "703", 2, True))),
    ),
    Row(
        "a queue more, in at once and paused", PAUSED,
        command(AddToQueue, queue="billing", number="703", penalty=2), Outcome.QUEUE_JOINED,
        (add("billing", reason="lunch"),), ((EventType.QUEUE_JOIN, "", "1001", ("billing",)),),
        replace(PAUSED, memberships=(*PAUSED.memberships, Membership("billing", "703", 2, True))),
    ),
    Row(
        "a queue more, not logged in", OFF,
        command(AddToQueue, queue="billing", number="703", penalty=2), Outcome.QUEUE_JOINED,
        (), (), replace(OFF, memberships=(*OFF.memberships, Membership("billing", "703", 2))),
    ),
    Row(
        "a queue more that is the agent's already", IN_SALES_ONLY,
        command(AddToQueue, queue="support", number="702"), Outcome.QUEUE_JOINED,
    ),
    Row(
        "a queue less", IN, command(RemoveFromQueue, queue="support"), Outcome.QUEUE_LEFT,
        (remove("support"),), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),),
        replace(IN, memberships=IN.memberships[:1]),
    ),
    Row(
        "a queue less, not in it", PAUSED_IN_SALES, command(RemoveFromQueue, queue="support"),
        Outcome.QUEUE_LEFT, (), (),
        replace(PAUSED_IN_SALES, memberships=PAUSED_IN_SALES.memberships[:1]),
    ),
    Row(
        "a queue less, not logged in", OFF, command(RemoveFromQueue, queue="sales"),
        Outcome.QUEUE_LEFT, (), (), replace(OFF, memberships=OFF.memberships[1:]),
    ),
    Row(
        "a queue less that is none of the agent's", IN,
        command(RemoveFromQueue, queue="billing"), Outcome.NOT_A_MEMBER,
        refused=errors.NotAMember,
    ),
    # -- a penalty for good
    Row(
        "another penalty for good", IN, command(AssignPenalty, queue="support", penalty=7),
        Outcome.QUEUE_JOINED, (SetPenalty("support", "PJSIP/1001", 7),),
        ((EventType.QUEUE_PENALTY, "7", "1001", ("support",)),),
        replace(IN, memberships=(IN.memberships[0], replace(IN.memberships[1], penalty=7))),
    ),
    Row(
        "another penalty for good that Asterisk has already", IN_OWN_PENALTY,
        command(AssignPenalty, queue="support", penalty=7), Outcome.QUEUE_JOINED, (), (),
        replace(IN, memberships=(IN.memberships[0], replace(IN.memberships[1], penalty=7))),
    ),
    Row(
        "another penalty for good, not logged in", OFF,
        command(AssignPenalty, queue="support", penalty=7), Outcome.QUEUE_JOINED, (), (),
        replace(OFF, memberships=(OFF.memberships[0], replace(OFF.memberships[1], penalty=7))),
    ),
    Row(
        "the penalty there is, for good", PAUSED,
        command(AssignPenalty, queue="support", penalty=1), Outcome.QUEUE_JOINED,
    ),
    Row(
        "a penalty for good in none of the agent's", IN,
        command(AssignPenalty, queue="billing", penalty=7), Outcome.NOT_A_MEMBER,
        refused=errors.NotAMember,
    ),
    # -- some of the queues
    Row(
        "log in: to one queue", OFF,
        command(LogIn, device=device("1001"), queues=("support",)), Outcome.LOGGED_IN,
        (add("support"),), ((EventType.LOGIN, "", "1001", ("support",)),),
        joined(replace(OFF, session=LoginSession("c", device("1001"), NOON)), "support"),
    ),
    # -- a pause that is not to be ended yet
    Row(
        "unpause, not before its time", PAUSED, command(Unpause),
        Outcome.PAUSE_LOCKED, refused=errors.PauseLocked,
        facts=Facts(locked=True),
    ),
    Row(
        "unpause where nothing is locked", IN, command(Unpause), Outcome.NOT_PAUSED,
        facts=Facts(locked=True),
    ),
    Row(
        "another reason is no way out of a pause", PAUSED,
        command(Pause, reason=BREAK), Outcome.PAUSE_LOCKED,
        refused=errors.PauseLocked,
        facts=Facts(locked=True),
    ),
    Row(
        "the same reason once more", PAUSED, command(Pause, reason=LUNCH),
        Outcome.ALREADY_PAUSED,
        facts=Facts(locked=True),
    ),
    # -- once more
    Row("relog", IN, command(Relog), Outcome.ALREADY_LOGGED_IN, (add("sales"), add("support"))),
    Row(
        "relog, paused", PAUSED, command(Relog), Outcome.ALREADY_LOGGED_IN,
        (add("sales", reason="lunch"), add("support", reason="lunch")),
    ),
    Row(
        "relog, not logged in", OFF, command(Relog), Outcome.NOT_LOGGED_IN,
        refused=errors.NotLoggedIn,
    ),
    # -- what somebody did in Asterisk itself: nothing is left to be told to it
    Row(
        "put into all queues", OFF, in_asterisk(seen("sales"), seen("support")),
        Outcome.LOGGED_IN, (), ((LOGIN, "", "1001", BOTH),), replace(IN, session=HERE),
    ),
    Row(
        "put into one queue", OFF, in_asterisk(seen("sales")), Outcome.LOGGED_IN,
        (), ((LOGIN, "", "1001", ("sales",)),), replace(IN_SALES_ONLY, session=HERE),
    ),
    Row(
        "put in with another penalty", OFF, in_asterisk(seen("sales"), seen("support", penalty=7)),
        Outcome.LOGGED_IN, (), ((LOGIN, "", "1001", BOTH),),
        replace(IN_OWN_PENALTY, session=HERE),
    ),
    Row(
        "put in paused", OFF, in_asterisk(seen("sales", "lunch"), seen("support", "lunch")),
        Outcome.LOGGED_IN, (),
        ((LOGIN, "", "1001", BOTH), (EventType.PAUSE, "lunch", "1001", BOTH)),
        replace(IN, session=HERE, pause=NOW_PAUSED),
    ),
    Row(
        "put in paused in one", OFF, in_asterisk(seen("sales"), seen("support", "no answer")),
        Outcome.LOGGED_IN, (),
        ((LOGIN, "", "1001", BOTH), (EventType.PAUSE, "no answer", "1001", ("support",))),
        replace(IN_OWN_PAUSE, session=HERE),
    ),
    Row(
        "put into a queue that is none of the agent's", OFF, in_asterisk(seen("billing")),
        Outcome.LOGGED_IN, (), ((LOGIN, "", "1001", ("billing",)),),
        replace(
            OFF, session=HERE, memberships=(*OFF.memberships, Membership("billing", "703", 2, True))
        ),
    ),
    Row("not there, and not logged in", OFF, in_asterisk(), Outcome.NOT_LOGGED_IN),
    Row(
        "nothing differs", IN, in_asterisk(seen("sales"), seen("support")), Outcome.LOGGED_IN
    ),
    Row(
        "nothing differs, paused", PAUSED,
        in_asterisk(seen("sales", "lunch"), seen("support", "lunch")), Outcome.LOGGED_IN,
    ),
    Row(
        "nothing differs from what is the queue's own", PAUSED_BUT_IN_SALES,
        in_asterisk(seen("sales"), seen("support", "lunch")), Outcome.LOGGED_IN,
    ),
    Row(
        "added to one more", IN_SALES_ONLY, in_asterisk(seen("sales"), seen("support")),
        Outcome.LOGGED_IN, (), ((EventType.QUEUE_JOIN, "", "1001", ("support",)),), IN,
    ),
    Row(
        "added to one that is none of the agent's", IN,
        in_asterisk(seen("sales"), seen("support"), seen("billing")), Outcome.LOGGED_IN,
        (), ((EventType.QUEUE_JOIN, "", "1001", ("billing",)),),
        replace(IN, memberships=(*IN.memberships, Membership("billing", "703", 2, True))),
    ),
    Row(
        "taken out of that one again",
        replace(IN, memberships=(*IN.memberships, Membership("billing", "703", 2, True))),
        in_asterisk(seen("sales"), seen("support")), Outcome.LOGGED_IN,
        (), ((EventType.QUEUE_LEAVE, "", "1001", ("billing",)),),
        replace(IN, memberships=(*IN.memberships, Membership("billing", "703", 2))),
    ),
    Row(
        "taken out of one", IN, in_asterisk(seen("sales")), Outcome.LOGGED_IN,
        (), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),), IN_SALES_ONLY,
    ),
    Row(
        "taken out of one with a pause of its own", IN_OWN_PAUSE, in_asterisk(seen("sales")),
        Outcome.LOGGED_IN, (), ((EventType.QUEUE_LEAVE, "", "1001", ("support",)),), IN_SALES_ONLY,
    ),
    Row(
        "taken out of the last: logged off", IN, in_asterisk(), Outcome.LOGGED_OFF,
        (), ((LOGOUT, "removed", "1001", BOTH),), OFF,
    ),
    Row(
        "taken out of the last, paused", PAUSED_BUT_IN_SALES, in_asterisk(), Outcome.LOGGED_OFF,
        (), ((LOGOUT, "removed", "1001", BOTH),), OFF,
    ),
    Row(
        "taken out of the last, which takes back what was planned", LEAVING_LATER, in_asterisk(),
        Outcome.LOGGED_OFF, (), ((LOGOUT, "removed", "1001", BOTH),), OFF,
    ),
    Row("who had left all queues is still there", IN_NONE, in_asterisk(), Outcome.NOT_LOGGED_IN),
    Row(
        "paused everywhere", IN, in_asterisk(seen("sales", "lunch"), seen("support", "lunch")),
        Outcome.LOGGED_IN, (), ((EventType.PAUSE, "lunch", "1001", BOTH),),
        replace(IN, pause=NOW_PAUSED),
    ),
    Row(
        "paused for a reason nobody knows", IN,
        in_asterisk(seen("sales", "Mittag"), seen("support", "Mittag")), Outcome.LOGGED_IN,
        (), ((EventType.PAUSE, "Mittag", "1001", BOTH),),
        replace(IN, pause=PauseSegment("c", PauseReason("", "Mittag"), NOON)),
    ),
    Row(
        "paused without a reason", IN, in_asterisk(seen("sales", ""), seen("support", "")),
        Outcome.LOGGED_IN, (), ((EventType.PAUSE, "", "1001", BOTH),),
        replace(IN, pause=PauseSegment("c", PauseReason("", ""), NOON)),
    ),
    Row(
        "paused in one, as when nobody answers", IN,
        in_asterisk(seen("sales"), seen("support", "no answer")), Outcome.LOGGED_IN,
        (), ((EventType.PAUSE, "no answer", "1001", ("support",)),), IN_OWN_PAUSE,
    ),
    Row(
        "and in the other for the same: paused", IN_OWN_PAUSE,
        in_asterisk(seen("sales", "no answer"), seen("support", "no answer")), Outcome.LOGGED_IN,
        (), ((EventType.PAUSE, "no answer", "1001", ("sales",)),),
        replace(IN, pause=PauseSegment("c", PauseReason("", "no answer"), NOON)),
    ),
    Row(
        "unpaused everywhere", PAUSED, in_asterisk(seen("sales"), seen("support")),
        Outcome.LOGGED_IN, (), ((EventType.UNPAUSE, "lunch", "1001", BOTH),), IN,
    ),
    Row(
        "unpaused in one", PAUSED, in_asterisk(seen("sales"), seen("support", "lunch")),
        Outcome.LOGGED_IN, (), ((EventType.UNPAUSE, "lunch", "1001", ("sales",)),),
        PAUSED_BUT_IN_SALES,
    ),
    Row(
        "and in the other: not paused any more", PAUSED_BUT_IN_SALES,
        in_asterisk(seen("sales"), seen("support")), Outcome.LOGGED_IN,
        (), ((EventType.UNPAUSE, "lunch", "1001", ("support",)),), IN,
    ),
    Row(
        "unpaused where only one was paused", IN_OWN_PAUSE,
        in_asterisk(seen("sales"), seen("support")), Outcome.LOGGED_IN,
        (), ((EventType.UNPAUSE, "no answer", "1001", ("support",)),), IN,
    ),
    Row(
        "paused for another reason", PAUSED,
        in_asterisk(seen("sales", "break"), seen("support", "break")), Outcome.LOGGED_IN,
        (), ((EventType.PAUSE, "break", "1001", BOTH),), replace(PAUSED, pause=ON_BREAK),
    ),
    Row(
        "paused for two reasons", PAUSED,
        in_asterisk(seen("sales", "lunch"), seen("support", "no answer")), Outcome.LOGGED_IN,
        (), ((EventType.PAUSE, "no answer", "1001", ("support",)),),
        own(PAUSED, "support", own_pause=RINGING),
    ),
    Row(
        "a paused agent is added unpaused", PAUSED_IN_SALES,
        in_asterisk(seen("sales", "lunch"), seen("support")), Outcome.LOGGED_IN, (),
        (
            (EventType.QUEUE_JOIN, "", "1001", ("support",)),
            (EventType.UNPAUSE, "lunch", "1001", ("support",)),
        ),
        own(PAUSED, "support", own_pause=NOT_HERE),
    ),
    Row(
        "a paused agent is added paused", PAUSED_IN_SALES,
        in_asterisk(seen("sales", "lunch"), seen("support", "lunch")), Outcome.LOGGED_IN,
        (), ((EventType.QUEUE_JOIN, "", "1001", ("support",)),), PAUSED,
    ),
    Row(
        "a pause leaves what was planned", LEAVING_LATER,
        in_asterisk(seen("sales", "lunch"), seen("support", "lunch")), Outcome.LOGGED_IN,
        (), ((EventType.PAUSE, "lunch", "1001", BOTH),), replace(LEAVING_LATER, pause=NOW_PAUSED),
    ),
    Row(
        "another penalty from there", IN, in_asterisk(seen("sales"), seen("support", penalty=7)),
        Outcome.LOGGED_IN, (), ((EventType.QUEUE_PENALTY, "7", "1001", ("support",)),),
        IN_OWN_PENALTY,
    ),
    Row(
        "the penalty of before", IN_OWN_PENALTY, in_asterisk(seen("sales"), seen("support")),
        Outcome.LOGGED_IN, (), ((EventType.QUEUE_PENALTY, "1", "1001", ("support",)),), IN,
    ),
    Row(
        "everything at once", PAUSED_IN_SALES,
        in_asterisk(seen("support", "break", penalty=7)), Outcome.LOGGED_IN, (),
        (
            (EventType.QUEUE_JOIN, "", "1001", ("support",)),
            (EventType.QUEUE_LEAVE, "", "1001", ("sales",)),
            (EventType.PAUSE, "break", "1001", ("support",)),
        ),
        replace(
            own(joined(PAUSED, "support"), "support", own_penalty=7), pause=ON_BREAK
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rules(row: Row) -> None:
    decision = decide(row.state, row.command, NOON, row.occupant, row.facts)

    if row.refused is not None:
        assert type(decision) is row.refused
        assert decision.outcome is row.outcome
        return
    assert isinstance(decision, Change)
    assert decision.outcome is row.outcome
    assert tuple(step.do for step in decision.steps) == row.operations
    assert tuple((e.type, e.reason, e.extension, e.queues) for e in decision.events) == row.events
    assert decision.before == row.state
    assert decision.after == (row.after or row.state)
    assert decision.alters is (row.after is not None)


def test_every_state_and_command_has_a_row_in_the_rules() -> None:
    kinds = {*COMMANDS.values(), Adopt}
    table = {(status, kind) for kind in TABLE for status in Status}
    assert table == {(status, kind) for status in Status for kind in kinds}
    assert {(row.state.status, type(row.command)) for row in ROWS} == table


def test_a_log_off_says_how_long_the_agent_was_there() -> None:
    change = decide(IN, command(LogOff), NOON)
    assert isinstance(change, Change)
    assert change.events[0].session_seconds == 90 * 60
    assert change.events[0].context == "phones"


def test_a_clock_set_back_makes_no_negative_session() -> None:
    change = decide(IN, command(LogOff), SINCE - timedelta(hours=1))
    assert isinstance(change, Change)
    assert change.events[0].session_seconds == 0


def test_a_refusal_says_who_is_there_and_where_the_agent_is() -> None:
    in_use = decide(OFF, log_in("1002"), NOON, occupant="1002")
    assert isinstance(in_use, errors.ExtensionInUse)
    assert in_use.occupant == "1002"
    elsewhere = decide(IN, log_in("1002"), NOON)
    assert isinstance(elsewhere, errors.LoggedInElsewhere)
    assert elsewhere.device == device("1001")


# -- whatever the state, whatever the command

reasons = st.builds(PauseReason, st.sampled_from("123"), st.sampled_from(["lunch", "break"]))
extensions = st.sampled_from(["1001", "1002", "1003"])


own_pauses = (
    st.none()
    | st.just(OwnPause(False))
    | st.builds(OwnPause, st.just(True), st.sampled_from(["", "lunch", "no answer"]))
)


@st.composite
def states(draw: st.DrawFn) -> AgentState:
    session = draw(
        st.none() | st.builds(LoginSession, st.just("s"), extensions.map(device), st.just(SINCE))
    )
    pause = None
    planned = None
    if session:
        pause = draw(st.none() | st.builds(PauseSegment, st.just("p"), reasons, st.just(SINCE)))
        planned = draw(st.sampled_from([None, LATER, BREAK_LATER]))
    in_general = (True, pause.reason.name) if pause else (False, "")

    def membership(name: str) -> Membership:
        m = Membership(
            name, QUEUES[name], draw(st.integers(0, 9)), bool(session) and draw(st.booleans())
        )
        if not m.joined:
            return m
        own_pause = draw(own_pauses)
        return replace(
            m,
            own_penalty=draw(st.none() | st.integers(10, 19)),
            # What is as in general is none of its own.
            own_pause=None
            if own_pause is None or (own_pause.paused, own_pause.reason) == in_general
            else own_pause,
        )

    names = draw(st.sets(st.sampled_from(sorted(QUEUES))).map(sorted))
    memberships = tuple(membership(name) for name in names)
    return AgentState(
        1,
        "1001",
        "Alice",
        "en",
        None,
        memberships,
        session,
        pause,
        planned,  # type: ignore[arg-type]
    )


common: dict[str, Any] = {
    "id": st.just("c"),
    "agent": st.just("1001"),
    "source": st.sampled_from(Source),
    "actor": st.builds(Actor, channel=st.text(max_size=5), hung_up=st.booleans()),
}
queues = st.sampled_from(sorted(QUEUES))
commands = st.one_of(
    st.builds(LogIn, **common, device=extensions.map(device), move=st.booleans()),
    st.builds(
        LogOff,
        **common,
        when_in_call=st.sampled_from(WhenInCall),
        reason=st.sampled_from(["", "taken over"]),
    ),
    st.builds(
        Pause,
        **common,
        reason=reasons,
        when_in_call=st.sampled_from(WhenInCall),
    ),
    st.builds(Unpause, **common),
    st.builds(JoinQueue, **common, queue=queues),
    st.builds(ChangePenalty, **common, queue=queues, penalty=st.integers(0, 19)),
    st.builds(AddToQueue, **common, queue=queues, number=st.just("7"), penalty=st.integers(0, 9)),
    st.builds(RemoveFromQueue, **common, queue=queues),
    st.builds(AssignPenalty, **common, queue=queues, penalty=st.integers(0, 9)),
    st.builds(LeaveQueue, **common, queue=queues, confirmed=st.booleans()),
)


any_facts = st.builds(
    Facts, in_call=st.booleans(), over_budget=st.booleans(), last_in_queue=st.booleans()
)


def asterisk_as_meant(state: AgentState) -> dict[str, dict[str, Member]]:
    """Asterisk's queues when they are what ``state`` means; a stranger is in each."""
    found = {
        name: {"pjsip/9": Member("Agent/9", "PJSIP/9", "PJSIP/9", 5, False, "")} for name in QUEUES
    }
    if state.session:
        at = state.session.device.interface
        for m in state.joined:
            found[m.queue][at.lower()] = Member(
                state.member_name,
                at,
                at,
                m.penalty_now,
                *state.pause_in(m),
            )
    return found


@st.composite
def adoptions(draw: st.DrawFn) -> Adopt:
    """Whatever Asterisk may report of an agent."""
    names = draw(st.sets(st.sampled_from(sorted(QUEUES))).map(sorted))
    members = []
    for name in names:
        paused = draw(st.booleans())
        reason = draw(st.sampled_from(["", "lunch", "break", "no answer"])) if paused else ""
        members.append(Seen(name, QUEUES[name], draw(st.integers(0, 9)), paused, reason))
    values = {"members": tuple(members), "device": draw(extensions.map(device))}
    return command(Adopt, **values, reasons=(LUNCH, BREAK))  # type: ignore[return-value]


@given(states(), adoptions())
def test_what_was_adopted_is_what_asterisk_has(state: AgentState, asked: Adopt) -> None:
    change = decide(state, asked, NOON)
    assert isinstance(change, Change)
    assert change.steps == ()
    after = change.after
    reported = {m.queue: (m.penalty, m.paused, m.reason) for m in asked.members}
    assert {m.queue: (m.penalty_now, *after.pause_in(m)) for m in after.joined} == reported
    if asked.members:
        assert after.session is not None
        assert state.session in (None, after.session)
    elif state.joined:
        assert after.status is Status.LOGGED_OFF
    else:
        assert after == state
    assert {m.queue for m in state.memberships} <= {m.queue for m in after.memberships}
    # Nothing is its own that is as in general: a pause made everywhere is the agent's.
    in_general = (True, after.pause.reason.name) if after.pause else (False, "")
    for m in after.memberships:
        assert m.own_penalty != m.penalty
        assert m.own_pause is None or (m.own_pause.paused, m.own_pause.reason) != in_general
        assert m.joined or (m.own_pause, m.own_penalty) == (None, None)


@given(states(), adoptions())
def test_an_event_says_whether_the_agent_is_paused_or_only_a_part(
    state: AgentState, asked: Adopt
) -> None:
    """A lamp follows those that are not in part."""
    change = decide(state, asked, NOON)
    assert isinstance(change, Change)
    for event in change.events:
        if event.type in (EventType.PAUSE, EventType.UNPAUSE):
            lamp = event.type is EventType.PAUSE
            assert event.in_part is (lamp is not (change.after.pause is not None))
        else:
            assert not event.in_part


@given(states(), adoptions())
def test_what_was_adopted_is_adopted_once(state: AgentState, asked: Adopt) -> None:
    change = decide(state, asked, NOON)
    assert isinstance(change, Change)
    again = decide(change.after, replace(asked, id="d"), NOON)
    assert isinstance(again, Change)
    assert not again.alters
    assert again.events == ()


@given(states(), adoptions())
def test_the_events_of_an_adoption_tell_the_difference(state: AgentState, asked: Adopt) -> None:
    """Told to somebody who knew the state of before, they give the state of now."""
    change = decide(state, asked, NOON)
    assert isinstance(change, Change)
    assert [e.id for e in change.events] == [f"c-{n}" for n in range(1, len(change.events) + 1)]
    known = {m.queue: (m.penalty_now, *state.pause_in(m)) for m in state.joined}
    for event in change.events:
        for queue in event.queues:
            match event.type:
                case EventType.LOGIN | EventType.QUEUE_JOIN:
                    assert queue not in known
                    # Of one that is new the penalty is not told.
                    penalty = next(m.penalty_now for m in change.after.joined if m.queue == queue)
                    paused = (True, state.pause.reason.name) if state.pause else (False, "")
                    known[queue] = (penalty, *paused)
                case EventType.QUEUE_LEAVE | EventType.LOGOUT:
                    del known[queue]
                case EventType.PAUSE:
                    assert known[queue][1:] != (True, event.reason)
                    known[queue] = (known[queue][0], True, event.reason)
                case EventType.UNPAUSE:
                    assert known[queue][1:] == (True, event.reason)
                    known[queue] = (known[queue][0], False, "")
                case EventType.QUEUE_PENALTY:
                    known[queue] = (int(event.reason), *known[queue][1:])
    assert known == {
        m.queue: (m.penalty_now, *change.after.pause_in(m)) for m in change.after.joined
    }
    assert change.alters is (state != change.after)


@given(states(), commands, any_facts)
def test_the_same_asked_twice_is_decided_the_same(
    state: AgentState, asked: Command, facts: Facts
) -> None:
    first, second = decide(state, asked, NOON, facts=facts), decide(state, asked, NOON, facts=facts)
    if isinstance(first, Refused):
        assert type(first) is type(second)
    else:
        assert first == second


@given(states(), commands, any_facts)
def test_the_steps_make_asterisk_what_the_new_state_means(
    state: AgentState, asked: Command, facts: Facts
) -> None:
    change = decide(state, asked, NOON, facts=facts)
    if isinstance(change, Refused):
        return
    asterisk = asterisk_as_meant(state)
    for step in change.steps:
        assert apply(asterisk, step.do)[0] is Answer.DONE
    assert asterisk == asterisk_as_meant(change.after)


@given(states(), commands, any_facts, st.data())
def test_what_was_done_is_taken_back_wherever_it_stopped(
    state: AgentState, asked: Command, facts: Facts, data: st.DataObject
) -> None:
    change = decide(state, asked, NOON, facts=facts)
    if isinstance(change, Refused):
        return
    asterisk = asterisk_as_meant(state)
    before = copy.deepcopy(asterisk)
    done = change.steps[: data.draw(st.integers(0, len(change.steps)))]
    for step in done:
        apply(asterisk, step.do)
    for operation in undo(done):
        assert apply(asterisk, operation)[0] is Answer.DONE
    assert asterisk == before


@given(states(), commands, any_facts)
def test_a_paused_agent_is_never_joined_unpaused(
    state: AgentState, asked: Command, facts: Facts
) -> None:
    change = decide(state, asked, NOON, facts=facts)
    if isinstance(change, Refused):
        return
    for who, steps in (
        (change.after, [step.do for step in change.steps]),
        (change.before, [step.undo for step in change.steps]),
    ):
        for operation in steps:
            if isinstance(operation, AddMember):
                of = {m.queue: m for m in who.memberships}
                assert (operation.paused, operation.reason) == who.pause_in(of[operation.queue])
                assert operation.penalty == of[operation.queue].penalty_now


@given(states(), commands, any_facts)
def test_events_are_named_after_the_command_and_say_who_asked(
    state: AgentState, asked: Command, facts: Facts
) -> None:
    change = decide(state, asked, NOON, facts=facts)
    if isinstance(change, Refused):
        return
    ids = [event.id for event in change.events]
    assert ids == [f"c-{n}" for n in range(1, len(ids) + 1)]
    for event in change.events:
        assert (event.agent, event.source, event.actor) == ("1001", asked.source, asked.actor)
        assert event.occurred_at == NOON


@given(states(), commands, any_facts)
def test_nothing_but_what_the_command_is_about_changes(
    state: AgentState, asked: Command, facts: Facts
) -> None:
    change = decide(state, asked, NOON, facts=facts)
    if isinstance(change, Refused):
        return
    after = change.after
    if not isinstance(asked, LogIn | LogOff):
        assert after.session == state.session
        if not isinstance(asked, Pause | Unpause) or isinstance(state.planned, LogOff):
            assert after.planned == state.planned
    if not isinstance(asked, LogOff | Pause | Unpause):
        assert after.pause == state.pause
    if change.outcome is Outcome.MOVED:
        assert after.memberships == state.memberships
    if isinstance(asked, Pause | Unpause):
        assert after.memberships == (
            tuple(replace(m, own_pause=None) for m in state.memberships)
            if change.steps
            else state.memberships
        )
    if after.session is None:
        assert after.pause is None
        assert after.planned is None
        assert not after.joined
    if change.steps:  # a change that asks Asterisk is worth an event, and the other way round
        assert change.events
        assert change.alters
