"""Whom a changed configuration would take something from while they work with it. Pure.

A file emptied for a second, moved away, half written: what it seems to say is that everybody is
gone. What costs agents their login or their calls is therefore done only when it was confirmed.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fastagi.agents.devices import DeviceRule, resolve
from fastagi.agents.model import AgentState

SHARE = 10  # of all agents, one in so many may be archived at once without being asked
_SHOWN = 10  # names in one line


@dataclass(frozen=True, slots=True)
class Removal:
    """What a configuration takes away, found before it is brought in."""

    agents: int  # how many there are now, archived ones not counted
    archived: tuple[str, ...] = ()  # numbers of agents who would be archived, or not enabled
    logged_off: tuple[str, ...] = ()  # those of them who are logged in, or about to be
    queues: frozenset[str] = frozenset()  # names of queues that would be archived
    reasons: frozenset[str] = frozenset()  # codes of pause reasons that would be
    # Of agents who are logged in: agent and queue.
    taken: frozenset[tuple[str, str]] = frozenset()
    given: frozenset[tuple[str, str]] = frozenset()
    logged_in: tuple[AgentState, ...] = ()  # those who are, with what they have now


@dataclass(frozen=True, slots=True)
class Loss:
    """What somebody would lose. ``agent`` is "" where it is about many."""

    agent: str
    what: str

    def __str__(self) -> str:
        return f"agent {self.agent} {self.what}" if self.agent else self.what


class NotConfirmed(Exception):
    """The configuration was not brought in, as somebody would lose something by it."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__(losses)
        self.losses = tuple(losses)

    def __str__(self) -> str:
        return "; ".join(map(str, self.losses))


def losses(
    removal: Removal,
    before: Sequence[DeviceRule] | None = None,
    after: Sequence[DeviceRule] = (),
    lacking: Mapping[str, Collection[str]] | None = None,
) -> list[Loss]:
    """What has to be confirmed; none when nothing has. ``before`` and ``after``: the device rules;
    None where it is not known which ones were in use. ``lacking``: by Asterisk, those of
    ``only_hopes`` that it does not have, in small letters."""
    found = [Loss(agent, "is logged in, and would be archived") for agent in removal.logged_off]
    gone = set(removal.logged_off)
    given = _given(removal)
    for state in removal.logged_in:
        if state.number not in gone:
            new = given.get(state.number, set())
            found += [Loss(state.number, what) for what in _lost(state, removal, new, lacking)]
            if before is not None:
                found += [Loss(state.number, what) for what in _homeless(state, before, after)]
    found.sort(key=lambda loss: (len(loss.agent), loss.agent))
    if len(removal.archived) * SHARE > removal.agents:
        numbers = sorted(removal.archived, key=lambda number: (len(number), number))
        found.append(
            Loss(
                "",
                f"{len(numbers)} of {removal.agents} agents would be archived: {shown(numbers)}",
            )
        )
    return found


def only_hopes(removal: Removal) -> dict[str, set[str]]:
    """By Asterisk: the queues given to agents who lose all that they are in. Where Asterisk lacks
    them, those agents would be in none."""
    given = _given(removal)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for state in removal.logged_in:
        new = given.get(state.number)
        if new and state.joined and not _left(state, removal):
            assert state.session is not None
            found[state.session.device.asterisk] |= new
    return dict(found)


def _given(removal: Removal) -> Mapping[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for agent, queue in removal.given:
        found[agent].add(queue)
    return found


def _left(state: AgentState, removal: Removal) -> set[str]:
    """The queues in which the agent would stay."""
    return {
        m.queue
        for m in state.joined
        if m.queue not in removal.queues and (state.number, m.queue) not in removal.taken
    }


def _lost(
    state: AgentState,
    removal: Removal,
    given: Collection[str],
    lacking: Mapping[str, Collection[str]] | None,
) -> Iterator[str]:
    pause = state.pause
    if pause is not None and pause.reason.code in removal.reasons:
        yield f"is paused for {pause.reason.name}, a reason which would be archived"
    joined = [m.queue for m in state.joined]
    closed = [queue for queue in joined if queue in removal.queues]
    for queue in closed:
        yield f"is in queue {queue}, which would be archived"
    if not joined or _left(state, removal):
        return
    assert state.session is not None
    missing = (lacking or {}).get(state.session.device.asterisk, ())
    if all(queue.lower() in missing for queue in given):
        why = f"; Asterisk lacks {shown(sorted(given))}" if given else ""
        yield f"would be in no queue any more (now in {shown(joined)}{why})"


def _homeless(
    state: AgentState, before: Sequence[DeviceRule], after: Sequence[DeviceRule]
) -> Iterator[str]:
    assert state.session is not None
    device = state.session.device
    was = resolve(before, device.extension, device.asterisk)
    if was is None or was.key != device.key:
        return  # put in by somebody else: no rule has made this device
    now = resolve(after, device.extension, device.asterisk)
    if now is None:
        yield f"is logged in at extension {device.extension}, which no device rule would match"
    elif now.key != device.key:
        yield (
            f"is logged in at extension {device.extension} as {device.interface}, "
            f"which would be {now.interface}"
        )


def shown(names: Collection[str]) -> str:
    """``a, b, c and 7 more``"""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
