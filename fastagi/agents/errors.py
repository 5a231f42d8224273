"""The tree of refusals; each has one stable code, and a caller hears each.

Refused
├── NoSuchAgent          NO_SUCH_AGENT
├── WrongPin             WRONG_PIN
├── AgentLocked          AGENT_LOCKED
├── ExtensionLocked      EXTENSION_LOCKED
├── NoSuchExtension      NO_SUCH_EXTENSION
├── NumberNotAllowed     NUMBER_NOT_ALLOWED
├── NotFromHere          NOT_FROM_HERE
├── ExtensionInUse       EXTENSION_IN_USE
├── LoggedInElsewhere    LOGGED_IN_ELSEWHERE
├── NotLoggedIn          NOT_LOGGED_IN
├── AlreadyPaused        ALREADY_PAUSED
├── InCall               IN_CALL
├── NoSuchReason         NO_SUCH_REASON
├── PauseSpent           PAUSE_SPENT
├── PauseLocked          PAUSE_LOCKED
├── NoSuchQueue          NO_SUCH_QUEUE
├── NotAMember           NOT_A_MEMBER
├── LastInQueue          LAST_IN_QUEUE
├── NoInput              NO_INPUT
├── QueueRefused         QUEUE_REFUSED
│   └── QueueMissing     QUEUE_REFUSED
├── Unavailable          UNAVAILABLE
│   ├── Unsettled        UNAVAILABLE
│   └── InProgress       UNAVAILABLE
└── Busy                 BUSY
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from fastagi.agents.devices import Device
from fastagi.contract import Outcome


class StoreFault(StrEnum):
    """Why the store cannot be used. A word that everybody may read: it names no file."""

    STARTING = "starting"  # not opened yet since the service was started
    AWAY = "away"  # no connection, no such server, wrong password
    NO_ANSWER = "no answer"
    LOCKED = "locked"  # by another program, for too long
    FULL = "disk full"
    READ_ONLY = "read-only"
    DENIED = "permission denied"
    MISSING = "missing"  # its file was deleted or moved away
    REPLACED = "replaced"  # its file, or the whole database, is another one
    DAMAGED = "damaged"


class StoreUnavailable(Exception):
    """The store cannot be read or written now: disk full, database away. Nothing was written.

    ``fault`` says which, the text where and what to do.
    """

    def __init__(self, why: str = "", *, fault: StoreFault = StoreFault.AWAY) -> None:
        super().__init__(why)
        self.fault = fault


class Refused(Exception):
    """Nothing was changed. ``outcome`` says why; the text is for the log."""

    outcome: ClassVar[Outcome]
    passing: ClassVar[bool] = False  # worth trying again, by a program too


class NoSuchAgent(Refused):
    outcome = Outcome.NO_SUCH_AGENT


class WrongPin(Refused):
    outcome = Outcome.WRONG_PIN


class AgentLocked(Refused):
    outcome = Outcome.AGENT_LOCKED


class ExtensionLocked(Refused):
    outcome = Outcome.EXTENSION_LOCKED


class NoSuchExtension(Refused):
    outcome = Outcome.NO_SUCH_EXTENSION


class NumberNotAllowed(Refused):
    """An outside number at which this agent may not log in."""

    outcome = Outcome.NUMBER_NOT_ALLOWED


class NotFromHere(Refused):
    """The caller is neither a phone nor one whom ``login.from`` lets use the codes."""

    outcome = Outcome.NOT_FROM_HERE


class ExtensionInUse(Refused):
    """``occupant`` is the number of the agent who is logged in there."""

    outcome = Outcome.EXTENSION_IN_USE

    def __init__(self, occupant: str) -> None:
        super().__init__(f"agent {occupant} is logged in there")
        self.occupant = occupant


class LoggedInElsewhere(Refused):
    """``device`` is where the agent is."""

    outcome = Outcome.LOGGED_IN_ELSEWHERE

    def __init__(self, device: Device) -> None:
        super().__init__(f"logged in at {device.extension}")
        self.device = device


class NotLoggedIn(Refused):
    outcome = Outcome.NOT_LOGGED_IN


class AlreadyPaused(Refused):
    """For interfaces where a pause is no way to change the reason of another one."""

    outcome = Outcome.ALREADY_PAUSED


class InCall(Refused):
    outcome = Outcome.IN_CALL


class NoSuchReason(Refused):
    outcome = Outcome.NO_SUCH_REASON


class PauseSpent(Refused):
    """The day's budget of this pause reason is used up."""

    outcome = Outcome.PAUSE_SPENT


class PauseLocked(Refused):
    """The pause may not be ended from the phone before its time."""

    outcome = Outcome.PAUSE_LOCKED


class NoSuchQueue(Refused):
    outcome = Outcome.NO_SUCH_QUEUE


class NotAMember(Refused):
    outcome = Outcome.NOT_A_MEMBER


class LastInQueue(Refused):
    outcome = Outcome.LAST_IN_QUEUE


class NoInput(Refused):
    outcome = Outcome.NO_INPUT


class QueueRefused(Refused):
    """``words`` are Asterisk's own; "" where there are none. ``queues``: the names of those that
    it refused to change, as far as is known."""

    outcome = Outcome.QUEUE_REFUSED

    def __init__(self, text: str = "", words: str = "", queues: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.words = words
        self.queues = tuple(queues)


class QueueMissing(QueueRefused):
    """Asterisk lacks these queues. ``queues``: their names; ``numbers``: what agents dial for
    them."""

    def __init__(self, queues: Sequence[str], numbers: Sequence[str]) -> None:
        named = [f"{queue} ({n})" if n else queue for queue, n in zip(queues, numbers, strict=True)]
        text = f"Asterisk has no queue {', '.join(named)}; {MISSING_QUEUE_CURE}"
        super().__init__(text, "No such queue", queues)
        self.numbers = tuple(numbers)


# For the log and for events: what an admin can do.
MISSING_QUEUE_CURE = (
    "add it to queues.conf and run 'queue reload all' in Asterisk, or correct its name in the "
    "configuration"
)


class Unavailable(Refused):
    outcome = Outcome.UNAVAILABLE
    passing = True


class Unsettled(Unavailable):
    """It may have happened; the intent is open and will be settled, and its event written then."""


class InProgress(Unavailable):
    """Another change of this agent is open. ``settle`` says that nobody is at it any more."""

    def __init__(self, agent: str, *, settle: bool) -> None:
        super().__init__(f"agent {agent} has an unsettled change")
        self.settle = settle


class Busy(Refused):
    outcome = Outcome.BUSY
