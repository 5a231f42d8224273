"""Pure: what is stored × what Asterisk reports → what to tell Asterisk."""

from collections.abc import Iterable

from fastagi.agents.commands import Command, JoinQueue, LogIn, Unpause
from fastagi.agents.model import AgentState, Change, Step, members
from fastagi.agents.operations import AddMember, Operation, ReportedMember


def to_be_finished(command: Command) -> bool:
    """How to settle an unconfirmed intent: finish it, or take it back?

    In doubt the phone does not ring: what takes an agent out of reach (log-off, pause, leaving a
    queue) is finished, what brings one in (login, joining, the end of a pause) is taken back, as
    the agent was told nothing, or "try again".
    """
    return not isinstance(command, LogIn | JoinQueue | Unpause)


def settlement(change: Change) -> list[Operation]:
    """The operations that settle an unconfirmed intent, whatever part of it Asterisk has seen."""
    if to_be_finished(change.command):
        return [step.do for step in change.steps]
    return [step.undo for step in reversed(change.steps)]


def restored(
    agents: Iterable[AgentState], reported: Iterable[ReportedMember]
) -> list[tuple[AgentState, AddMember]]:
    """Members that a restarted Asterisk has lost, with penalty, pause and reason as stored."""
    there = {(m.queue.lower(), m.interface.lower()) for m in reported}
    return [
        (agent, add)
        for agent in agents
        if agent.session is not None
        for add in members(agent, agent.session.device, agent.joined)
        if (add.queue.lower(), add.interface.lower()) not in there
    ]


def undo(steps: Iterable[Step]) -> list[Operation]:
    """Takes back what was done, the last step first."""
    return [step.undo for step in reversed(list(steps))]
