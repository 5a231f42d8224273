"""What is asked of Asterisk's queues, and what it may answer."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class AddMember:
    """Put an interface into a queue; paused already when the agent is, so no call slips through."""

    queue: str
    interface: str
    state_interface: str
    member_name: str
    penalty: int = 0
    paused: bool = False
    reason: str = ""
    asterisk: str = ""  # the name of the Asterisk, where there are several


@dataclass(frozen=True, slots=True)
class RemoveMember:
    queue: str
    interface: str
    asterisk: str = ""


@dataclass(frozen=True, slots=True)
class PauseMember:
    """Pause or unpause an interface in one queue, or in every queue it is in."""

    interface: str
    paused: bool
    reason: str = ""
    queue: str = ""  # "": every one
    asterisk: str = ""


@dataclass(frozen=True, slots=True)
class SetPenalty:
    queue: str
    interface: str
    penalty: int
    asterisk: str = ""


Operation = AddMember | RemoveMember | PauseMember | SetPenalty


def in_words(operation: Operation) -> str:
    """For the log: what Asterisk was asked to do."""
    who, queue = operation.interface, operation.queue or "all queues"
    if isinstance(operation, AddMember):
        return f"add {who} to queue {queue}"
    if isinstance(operation, RemoveMember):
        return f"remove {who} from queue {queue}"
    if isinstance(operation, PauseMember):
        return f"{'pause' if operation.paused else 'unpause'} {who} in {queue}"
    return f"set the penalty of {who} in {queue} to {operation.penalty}"


class Answer(Enum):
    """What became of an operation."""

    DONE = "done"
    ALREADY_SO = "already so"  # "Already there" on an add, "Not there" on a remove: counts as done
    # Of a member that is static or realtime (it stands in queues.conf or in a database), as the
    # service carries it out: a remove, which pauses it instead; an add, which finds it there and
    # sets its penalty and pause.
    PAUSED_INSTEAD = "paused instead"
    ADJUSTED = "adjusted"
    REFUSED = "refused"  # Asterisk said no: nothing changed
    NO_SUCH_QUEUE = "no such queue"  # refused, to an add: Asterisk lacks the queue
    NOT_DYNAMIC = "not dynamic"  # refused, to a remove: the member is static or realtime
    UNKNOWN = "unknown"  # the link was lost or silent: it may or may not have happened

    @property
    def ok(self) -> bool:
        return self in _OK

    @property
    def refused(self) -> bool:
        return self not in _OK and self is not Answer.UNKNOWN


_OK = frozenset({Answer.DONE, Answer.ALREADY_SO, Answer.PAUSED_INSTEAD, Answer.ADJUSTED})


@dataclass(frozen=True, slots=True)
class Result:
    operation: Operation
    answer: Answer
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.answer.ok


@dataclass(frozen=True, slots=True)
class ReportedMember:
    """One member of one queue, as Asterisk reports it."""

    queue: str
    interface: str
    state_interface: str
    name: str
    penalty: int
    paused: bool
    reason: str
    in_call: bool
    dynamic: bool
    unreachable: bool = False  # the device behind its state interface is unavailable
    last_call: float = 0.0  # when its last queue call ended, in seconds since 1970; 0: never
    asterisk: str = ""
    # It is a member, but what Asterisk says of it cannot be used: nothing follows from that.
    unsure: bool = False
    invalid: bool = False  # its state interface names nothing that Asterisk has: it never rings


@dataclass(frozen=True, slots=True)
class MemberNews:
    """Something happened to a member: this is how it is now, or was when it was removed."""

    member: ReportedMember
    present: bool


LIFE_MARK = "life-"  # begins the mark that lives exactly as long as an Asterisk


def restarted(noted: str, now: str) -> bool:
    """Whether Asterisk was restarted between these two answers of ``started_at``.

    The start-up time decides; where it is the same, and both have a mark, the marks do.
    """
    before, _, mark = noted.partition(f" {LIFE_MARK}")
    after, _, other = now.partition(f" {LIFE_MARK}")
    # An earlier version put the value of a global variable behind the time.
    if before[:19] != after[:19]:
        return True
    return bool(mark and other) and mark != other


class QueuesUnavailable(Exception):
    """The manager link is down or silent; nothing was sent."""
