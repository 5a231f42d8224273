"""Members of Asterisk's queues: add, remove, pause, penalty, status.

Queue and interface names match case-insensitively in Asterisk, so compare them casefolded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
    Result,
    SetPenalty,
)
from fastagi.ami.actions import AmiAction, queue_operation
from fastagi.ami.client import BadAction, Client, ManagerError, NotConnected, Response

# What Asterisk answers, as prefixes, to what that means. Everything else is judged by its
# Response: a Success is DONE, an Error is REFUSED.
ANSWERS: dict[type, tuple[tuple[str, Answer], ...]] = {
    AddMember: (
        ("Added interface to queue", Answer.DONE),
        ("Unable to add interface: Already there", Answer.ALREADY_SO),
        ("Unable to add interface to queue: No such queue", Answer.REFUSED),
    ),
    RemoveMember: (
        ("Removed interface from queue", Answer.DONE),
        ("Unable to remove interface: Not there", Answer.ALREADY_SO),
        # Nobody is in a queue that is gone: it keeps no agent from logging off.
        ("Unable to remove interface from queue: No such queue", Answer.ALREADY_SO),
        ("Member not dynamic", Answer.REFUSED),
    ),
    PauseMember: (
        ("Interface paused successfully", Answer.DONE),
        ("Interface unpaused successfully", Answer.DONE),
        ("Interface not found", Answer.REFUSED),
    ),
    SetPenalty: (
        ("Interface penalty set successfully", Answer.DONE),
        ("Invalid interface, queuename or penalty", Answer.REFUSED),
    ),
}

# What the service sends, the write class it takes, and what for.
NEEDED: dict[str, tuple[str, str]] = {
    "QueueAdd": ("agent", "log agents in"),
    "QueueRemove": ("agent", "log agents off"),
    "QueuePause": ("agent", "pause and unpause agents"),
    "QueuePenalty": ("agent", "set an agent's penalty"),
    "QueueLog": ("agent", "write logins and log-offs to queue_log"),
    "UserEvent": ("user", "tell other programs what happened"),
    "Setvar": ("call", "set the device states of lamps"),
    "CoreStatus": ("reporting", "see whether Asterisk was restarted"),
    "QueueStatus": ("", "read the queues"),
}


@dataclass(frozen=True, slots=True)
class Privileges:
    """What the manager user may not do, and what this Asterisk cannot do."""

    missing: dict[str, tuple[str, ...]]  # write class -> the needed actions it would allow
    unknown: tuple[str, ...]  # actions this Asterisk does not have: a module is not loaded

    @property
    def ok(self) -> bool:
        return not self.missing and not self.unknown


def judge(operation: Operation, response: Response) -> Answer:
    """The meaning of Asterisk's answer to this operation."""
    if (
        isinstance(operation, PauseMember)
        and not operation.paused
        and response.message.startswith("Interface not found")
    ):
        return Answer.ALREADY_SO  # what is in no queue is paused in none
    for text, answer in ANSWERS[type(operation)]:
        if response.message.startswith(text):
            return answer
    return Answer.DONE if response.success else Answer.REFUSED


class Queues:
    """Asterisk's queues through one manager connection."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def connected(self) -> bool:
        return self._client.connected

    async def apply(self, operations: Sequence[Operation]) -> list[Result]:
        """Send all at once; one result each, in the same order.

        Raises QueuesUnavailable when there is no link: nothing was sent. UNKNOWN stands for what
        was sent and not answered. An operation that Asterisk would misread is REFUSED unsent.
        """
        results: list[Result | None] = [None] * len(operations)
        actions: list[AmiAction] = []
        places: list[int] = []
        for place, operation in enumerate(operations):
            try:
                actions.append(queue_operation(operation))
            except BadAction as error:
                results[place] = Result(operation, Answer.REFUSED, str(error))
            else:
                places.append(place)
        try:
            answers = await self._client.actions(actions)
        except NotConnected as error:
            raise QueuesUnavailable(str(error)) from None
        for place, answer in zip(places, answers, strict=True):
            operation = operations[place]
            if isinstance(answer, Response):
                result = Result(operation, judge(operation, answer), answer.message)
            elif isinstance(answer, BadAction):
                result = Result(operation, Answer.REFUSED, str(answer))
            else:
                result = Result(operation, Answer.UNKNOWN, str(answer))
            results[place] = result
        return [result for result in results if result is not None]

    async def members(self, queue: str | None = None) -> list[ReportedMember]:
        """The members of one queue or of all; a queue Asterisk does not have has none."""
        headers: AmiAction = {} if queue is None else {"Queue": queue}
        return [_member(item) for item in await self._status("QueueMember", headers)]

    async def queue_names(self) -> list[str]:
        return sorted(item.get("Queue", "") for item in await self._status("QueueParams", {}))

    async def in_call(self, interface: str) -> bool:
        """Is this interface in a call from any queue?"""
        items = await self._status("QueueMember", {"Member": interface})
        if not items:
            # Asterisk compares here, and only here, with regard to case.
            wanted = interface.casefold()
            everything = await self._status("QueueMember", {})
            items = [i for i in everything if i.get("Location", "").casefold() == wanted]
        return any(item.get("InCall") == "1" for item in items)

    async def started_at(self) -> str:
        """When Asterisk was started, ``2026-11-22 18:14:52`` in its own time zone.

        It differs after a restart and is the same after a lost link. QueuesUnavailable also when
        the manager user may not ask.
        """
        response = await self._ask({"Action": "CoreStatus"})
        date = response.headers.get("CoreStartupDate", "")
        time = response.headers.get("CoreStartupTime", "")
        if not response.success or not date or not time:
            raise QueuesUnavailable(f"CoreStatus: {response.message or 'no start-up time given'}")
        return f"{date} {time}"

    async def privileges(self) -> Privileges:
        """Which of the needed actions the manager user lacks. Changes nothing in Asterisk.

        ListCommands lists what this user may send. An action missing there is sent without its
        parameters: it can only answer "Permission denied", or that there is no such action.
        """
        response = await self._ask({"Action": "ListCommands"})
        missing: dict[str, tuple[str, ...]] = {}
        unknown: list[str] = []
        for action, (write_class, _) in NEEDED.items():
            if action in response.headers:
                continue
            answer = await self._ask({"Action": action})
            if answer.message.startswith("Permission denied"):
                missing[write_class] = (*missing.get(write_class, ()), action)
            else:
                unknown.append(action)
        return Privileges(missing, tuple(unknown))

    async def _ask(self, action: AmiAction) -> Response:
        try:
            return await self._client.action(action)
        except ManagerError as error:
            raise QueuesUnavailable(str(error)) from None

    async def _status(self, item_event: str, headers: AmiAction) -> list[dict[str, str]]:
        try:
            return await self._client.list_action(
                {"Action": "QueueStatus", **headers}, item_event, "QueueStatusComplete"
            )
        except BadAction:
            return []  # no queue and no member can have such a name
        except ManagerError as error:
            raise QueuesUnavailable(str(error)) from None


def _member(item: dict[str, str]) -> ReportedMember:
    # QueueStatus says Name and Location where the events say MemberName and Interface.
    interface = item.get("Location", "")
    penalty = item.get("Penalty", "")
    return ReportedMember(
        queue=item.get("Queue", ""),
        interface=interface,
        state_interface=item.get("StateInterface", "") or interface,
        name=item.get("Name", ""),
        penalty=int(penalty) if penalty.isdecimal() else 0,
        paused=item.get("Paused") == "1",
        reason=item.get("PausedReason", ""),
        in_call=item.get("InCall") == "1",
        dynamic=item.get("Membership") == "dynamic",
    )
