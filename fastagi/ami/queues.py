"""Members of Asterisk's queues: add, remove, pause, penalty, status; and the fallback's notes.

Queue and interface names match case-insensitively in Asterisk, so compare them casefolded.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from fastagi.agents.fence import Fence
from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    LIFE_MARK,
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
from fastagi.agents.text import Unusable, storable
from fastagi.ami.actions import AmiAction, queue_operation
from fastagi.ami.client import (
    LIST_FRAME,
    BadAction,
    Client,
    ManagerError,
    NotConnected,
    Response,
    can_be_sent,
)
from fastagi.ami.members import member, unsure
from fastagi.contract import NOTES_FAMILY

log = structlog.get_logger()

# What Asterisk answers, as prefixes, to what that means. Everything else is judged by its
# Response: a Success is DONE, an Error is REFUSED.
ANSWERS: dict[type, tuple[tuple[str, Answer], ...]] = {
    AddMember: (
        ("Added interface to queue", Answer.DONE),
        ("Unable to add interface: Already there", Answer.ALREADY_SO),
        ("Unable to add interface to queue: No such queue", Answer.NO_SUCH_QUEUE),
    ),
    RemoveMember: (
        ("Removed interface from queue", Answer.DONE),
        ("Unable to remove interface: Not there", Answer.ALREADY_SO),
        # Nobody is in a queue that is gone: it keeps no agent from logging off.
        ("Unable to remove interface from queue: No such queue", Answer.ALREADY_SO),
        ("Member not dynamic", Answer.NOT_DYNAMIC),
    ),
    PauseMember: (
        ("Interface paused successfully", Answer.DONE),
        ("Interface unpaused successfully", Answer.DONE),
        # What is in no queue, or not in this one, gets no call there: it is as good as paused, and
        # it is paused in none.
        ("Interface not found", Answer.ALREADY_SO),
    ),
    SetPenalty: (
        ("Interface penalty set successfully", Answer.DONE),
        # Ours is a penalty: so Asterisk has lost the member, which is put back with the new one.
        ("Invalid interface, queuename or penalty", Answer.ALREADY_SO),
    ),
}

# While Asterisk starts, its manager interface answers before app_queue is there: nothing was
# refused, nobody is there yet.
NOT_LOADED = "Invalid/unknown command"

# What the service sends, the write class it takes, and what for.
NEEDED: dict[str, tuple[str, str]] = {
    "QueueAdd": ("agent", "log agents in"),
    "QueueRemove": ("agent", "log agents off"),
    "QueuePause": ("agent", "pause and unpause agents"),
    "QueuePenalty": ("agent", "set an agent's penalty"),
    "QueueLog": ("agent", "write logins and log-offs to queue_log"),
    "UserEvent": ("user", "tell other programs what happened"),
    "Setvar": ("call", "set the device states of lamps, delete notes of the fallback"),
    "CoreStatus": ("reporting", "see whether Asterisk was restarted"),
    "DBGetTree": ("reporting", "read what the fallback did while the service was away"),
    "QueueStatus": ("", "read the queues"),
}


# So many members are read in one go, between two looks at what else is to be done.
SLICE = 500
FEW = 20  # queues that are asked one by one where an interface is looked for

# Of notes of ours alone: whatever else stands in that family of the database is another's.
_KEY = re.compile(r"[0-9]{13}-[A-Za-z0-9_.-]{1,80}", re.ASCII)
_MOMENT = re.compile(r"[0-9A-Za-z:. /+-]{3,60}", re.ASCII)
_MARK = re.compile(LIFE_MARK + r"[0-9a-f]{8}", re.ASCII)
SHOWN = 10  # notes that cannot be read, in one reading; the others are counted


@dataclass(frozen=True, slots=True)
class Privileges:
    """What the manager user may not do, and what this Asterisk cannot do."""

    missing: dict[str, tuple[str, ...]]  # write class -> the needed actions it would allow
    unknown: tuple[str, ...]  # actions this Asterisk does not have: a module is not loaded

    @property
    def ok(self) -> bool:
        return not self.missing and not self.unknown


async def _all() -> None:
    """All queues that Asterisk has."""


def judge(operation: Operation, response: Response) -> Answer:
    """The meaning of Asterisk's answer to this operation."""
    if response.message.startswith(NOT_LOADED):
        return Answer.UNKNOWN
    for text, answer in ANSWERS[type(operation)]:
        if response.message.startswith(text):
            return answer
    return Answer.DONE if response.success else Answer.REFUSED


# Marks this life of Asterisk: a variable in the environment of its process, which lives exactly as
# long. A global variable would not do: ``clearglobalvars = yes`` removes it at a reload.
LIFE = "ENV(FASTAGI_LIFE)"


class Queues:
    """One Asterisk's queues through one manager connection; ``asterisk`` is its name.

    ``configured`` gives the names of the queues that are asked for where none is named; without it
    they are all that Asterisk has, and of those of others there may be many thousands.
    ``reads_only``: for a command that only looks; notes that cannot be read stay.
    """

    def __init__(
        self,
        client: Client,
        asterisk: str = "",
        *,
        fence: Fence | None = None,
        configured: Callable[[], Awaitable[Collection[str] | None]] | None = None,
        reads_only: bool = False,
    ) -> None:
        self._client = client
        self.asterisk = asterisk
        self._fence = fence or Fence(log)
        self._configured = configured or _all
        self._reads_only = reads_only
        self._one_after_the_other = asyncio.Lock()
        self._sizes: dict[str, int] = {}  # by queue: bytes of its members when last asked for
        self._kept: set[str] = set()  # notes that could not be deleted

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

    async def members(
        self,
        queue: str | None = None,
        interface: str | None = None,
        queues: Collection[str] | None = None,
    ) -> list[ReportedMember]:
        """The members of one queue, of ``queues``, or of all that are configured; or where one
        interface is a member of these. May raise what ``configured`` raises.

        A queue Asterisk does not have has none. Fifty thousand take a second of Asterisk's time
        and a fifth of a second of ours, in slices. Queues are asked for one after the other, so
        that what others send meanwhile is answered in between: the members at the end of a long
        answer are later ones than those at its beginning.
        """
        asked = [queue] if queue is not None else queues
        if asked is None:
            asked = await self._configured()
        if interface is None:
            return await self._members(asked)
        found = await self._members(asked, interface)
        if not found:
            # Asterisk compares here, and only here, with regard to case.
            wanted = interface.casefold()
            everybody = await self._members(asked)
            found = [m for m in everybody if m.interface.casefold() == wanted]
        return found

    async def _members(
        self, queues: Collection[str] | None, interface: str | None = None
    ) -> list[ReportedMember]:
        """``queues`` None: of all that Asterisk has."""
        action: AmiAction = {"Action": "QueueStatus"}
        if interface is not None:
            action["Member"] = interface
        if queues is None or (interface is not None and len(queues) > FEW):
            # Of one interface there is little to tell, but each queue adds its own parameters.
            return await self._asked([action])
        names = list({name.lower(): name for name in queues}.values())
        if len(names) <= 1:
            return await self._asked([{**action, "Queue": name} for name in names])
        async with self._one_after_the_other:
            return await self._asked([{**action, "Queue": name} for name in names])

    async def _asked(self, actions: Sequence[AmiAction]) -> list[ReportedMember]:
        # No queue and no member can have a name that cannot be said.
        actions = [action for action in actions if can_be_sent(action)]
        # What was the size of each, when it was asked for last?
        names = [str(a.get("Queue", "")) if "Member" not in a else None for a in actions]
        sizes = [LIST_FRAME if name is None else self._sizes.get(name, 0) for name in names]
        try:
            lists = await self._client.raw_list_actions(
                actions, "QueueMember", "QueueStatusComplete", sizes
            )
        except ManagerError as error:
            raise QueuesUnavailable(str(error)) from None
        for name, found in zip(names, lists, strict=True):
            if name is not None:
                self._sizes[name] = LIST_FRAME + sum(map(len, found))
        items = [item for found in lists for item in found]
        members: list[ReportedMember] = []
        for begin in range(0, len(items), SLICE):
            if begin:
                await asyncio.sleep(0)
            for item in items[begin : begin + SLICE]:
                try:
                    members.append(member(item, self.asterisk))
                except Unusable as error:
                    self._fence.skipped("read queue members", error, asterisk=self.asterisk)
                    if (one := unsure(item, self.asterisk)) is not None:
                        members.append(one)
        return members

    async def lacking(self, queues: Sequence[str]) -> set[str]:
        """Those of these queues that Asterisk does not have, in lower case. A realtime queue that
        nobody has used since Asterisk was started is among them."""
        lacking: set[str] = set()
        for queue in queues:
            action: AmiAction = {"Action": "QueueSummary", "Queue": queue}
            try:
                found = await self._client.list_action(
                    action, "QueueSummary", "QueueSummaryComplete"
                )
            except BadAction:
                found = []
            except ManagerError as error:
                raise QueuesUnavailable(str(error)) from None
            if not found:
                lacking.add(queue.lower())
        return lacking

    async def queue_names(self) -> list[str]:
        items = await self._list({"Action": "QueueStatus"}, "QueueParams", "QueueStatusComplete")
        names: list[str] = []
        for item in items:
            with self._fence.item("read queue names", asterisk=self.asterisk):
                names.append(storable("Queue", item.get("Queue"), needed=True))
        return sorted(names)

    async def started_at(self) -> str:
        """When Asterisk was started, ``2026-11-22 18:14:52`` in its own time zone, and the mark of
        this life: ``restarted`` compares two of them.

        QueuesUnavailable also when the manager user may not ask.
        """
        response = await self._ask({"Action": "CoreStatus"})
        date = response.headers.get("CoreStartupDate", "")
        time = response.headers.get("CoreStartupTime", "")
        if not response.success or not _MOMENT.fullmatch(f"{date} {time}"):
            raise QueuesUnavailable(f"CoreStatus: {response.message or 'no start-up time given'}")
        # A restart within the second has the same time, but another mark.
        mark: AmiAction = {"Action": "Getvar", "Variable": LIFE}
        token = (await self._ask(mark)).headers.get("Value", "")
        if not _MARK.fullmatch(token):
            token = f"{LIFE_MARK}{random.getrandbits(32):08x}"
            set_mark: AmiAction = {"Action": "Setvar", "Variable": LIFE, "Value": token}
            await self._ask(set_mark)
            # Without func_env.so there is none: then the time alone decides.
            if (await self._ask(mark)).headers.get("Value", "") != token:
                return f"{date} {time}"
        return f"{date} {time} {token}"

    async def notes(self) -> list[Note]:
        """What the fallback left in Asterisk's database and was not forgotten yet, oldest first.

        Notes that cannot be read are logged, as far as can be, and deleted: they would come again
        for ever. What is no note is left where it is.
        """
        items = await self._list(
            {"Action": "DBGetTree", "Family": NOTES_FAMILY},
            "DBGetTreeResponse",
            "DBGetTreeComplete",
        )
        found: dict[str, Note] = {}
        unreadable: list[str] = []
        for item in items:
            key = item.get("Key", "").removeprefix(f"/{NOTES_FAMILY}/")
            value = item.get("Val", "")
            if not value or key in self._kept:
                continue
            try:
                found[key] = Note.parse(key, value)
            except Unusable as error:
                if self._reads_only:
                    continue
                if not _KEY.fullmatch(key):
                    self._fence.skipped("read notes of the fallback", error, key=ascii(key[:100]))
                    continue
                unreadable.append(key)
                if len(unreadable) <= SHOWN:
                    log.warning(
                        "fallback note cannot be read, it is deleted",
                        asterisk=self.asterisk,
                        key=key,
                        error=str(error),
                        value=ascii(value[:255]),
                    )
        if len(unreadable) > SHOWN:
            log.warning(
                "fallback notes cannot be read, they are deleted",
                asterisk=self.asterisk,
                count=len(unreadable),
            )
        for begin in range(0, len(unreadable), SLICE):
            await self._delete(unreadable[begin : begin + SLICE])
        return [note for _, note in sorted(found.items())]

    async def forget(self, notes: Sequence[Note]) -> None:
        """Delete these from Asterisk's database.

        Asterisk keeps manager users without the class ``system`` from DBDel and from writing to
        its database, and lets them delete by writing to DB_DELETE (func_db.c,
        ``function_db_delete_write``). A note that it keeps all the same is not read again by
        this process.
        """
        await self._delete([note.key for note in notes if _KEY.fullmatch(note.key)])

    async def _delete(self, keys: Sequence[str]) -> None:
        actions: list[AmiAction] = [
            {"Action": "Setvar", "Variable": f"DB_DELETE({NOTES_FAMILY}/{key})", "Value": "1"}
            for key in keys
        ]
        try:
            answers = await self._client.actions(actions)
        except NotConnected as error:
            raise QueuesUnavailable(str(error)) from None
        refused = [
            (key, answer.message)
            for key, answer in zip(keys, answers, strict=True)
            if isinstance(answer, Response) and not answer.success
        ]
        if refused:
            self._kept.update(key for key, _ in refused)
            log.warning(
                "notes of the fallback stay in Asterisk's database",
                asterisk=self.asterisk,
                count=len(refused),
                error=refused[0][1][:200],
                mend="load func_db.so, and give the manager user the write class call",
            )

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

    async def _list(self, action: AmiAction, item: str, complete: str) -> list[dict[str, str]]:
        try:
            return await self._client.list_action(action, item, complete)
        except ManagerError as error:
            raise QueuesUnavailable(str(error)) from None
