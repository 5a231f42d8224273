"""What an Asterisk's queue events tell of their own health: whether they come, and of members that
are never rung."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastagi.agents.differences import number_in
from fastagi.agents.log import Log, Trouble
from fastagi.agents.model import Change
from fastagi.agents.operations import AddMember, MemberNews, RemoveMember, ReportedMember

# So many changes of ours, over so many seconds, are told back to us by no event before it is said
# that none come. One that was "already so" has none.
DEAF_AFTER, DEAF_SECONDS = 3, 10.0
MOST_INVALID = 1_000  # interfaces that are remembered as logged


class QueueEvents:
    def __init__(self, asterisk: str, log: Log) -> None:
        self._asterisk = asterisk
        self._log = log
        self._where: dict[str, Any] = {"asterisk": asterisk} if asterisk else {}
        # Of our changes since the last event of a queue member, and when the first of them was.
        self._unheard = 0
        self._unheard_since = 0.0
        self._deaf = Trouble(
            log,
            "Asterisk sends no queue events",
            "Asterisk sends queue events again",
            asterisk=asterisk,
        )
        self._invalid: set[str] = set()  # interfaces whose state interface is Invalid, as logged

    def forget(self) -> None:
        """The link is a new one."""
        self._unheard = 0

    def heard(self, item: MemberNews) -> None:
        self._unheard = 0
        if self._deaf:
            self._deaf.is_over()
        invalid = item.member.invalid and item.present
        if invalid is not (item.member.interface in self._invalid):
            self._note_invalid(item.member, invalid)

    def expect(self, change: Change) -> None:
        """Each member that we add or remove is told back to us as an event, unless the manager
        user may not read it."""
        steps = [step.do for step in change.steps if step.do.asterisk == self._asterisk]
        if not any(isinstance(do, AddMember | RemoveMember) for do in steps):
            return
        now = asyncio.get_running_loop().time()
        if self._unheard == 0:
            self._unheard_since = now
        self._unheard += 1
        if self._unheard > DEAF_AFTER and now - self._unheard_since > DEAF_SECONDS:
            self._deaf.is_there(
                effect="what others change in Asterisk, phones that go away and ends of calls are"
                " found late or not at all",
                mend="read = agent for the manager user, no eventfilter that hides QueueMember",
            )

    def _note_invalid(self, member: ReportedMember, invalid: bool = True) -> None:
        """Said once, until it is valid again or the member is taken out."""
        if not invalid:
            self._invalid.discard(member.interface)
        elif number_in(member.name) and len(self._invalid) < MOST_INVALID:
            self._invalid.add(member.interface)
            self._log.warning(
                "a member's state interface is Invalid",
                effect="the queue does not ring this phone",
                agent=number_in(member.name),
                queue=member.queue,
                interface=member.interface,
                state_interface=member.state_interface,
                mend="correct state_interface in the device rule, or the endpoint or hint it names",
                **self._where,
            )

    def look_for_invalid(self, reported: Sequence[ReportedMember]) -> None:
        self._invalid &= {member.interface for member in reported if member.invalid}
        for member in reported:
            if member.invalid and member.interface not in self._invalid:
                self._note_invalid(member)
