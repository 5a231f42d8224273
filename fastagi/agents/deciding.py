"""The rules that the store calls: pure, inside its transaction, with what it has loaded."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from fastagi.agents import errors
from fastagi.agents.commands import NO_FACTS, AddToQueue, Command, Facts, LogIn
from fastagi.agents.devices import Device
from fastagi.agents.errors import Refused
from fastagi.agents.log import Log
from fastagi.agents.model import Change, Decision, decide
from fastagi.agents.records import Stored
from fastagi.contract import Source

Rule = Callable[[Stored], Change]
Again = Callable[[Stored], Change | None]  # None: it cannot be decided once more


def beginning(
    command: Command, now: datetime, facts: Facts = NO_FACTS, *, applied: bool = False
) -> Rule:
    """The rule that begins ``command``. It raises the Refused that was decided, or InProgress.

    ``applied``: Asterisk has it already, so there are no steps.
    """

    def rule(stored: Stored) -> Change:
        state, intent = stored.state, stored.intent
        if stored.archived and (state.session is None or isinstance(command, LogIn)):
            raise errors.NoSuchAgent(command.agent)
        at = now
        if intent is not None:
            if intent.id != command.id:
                raise errors.InProgress(command.agent, settle=intent.ours)
            at = intent.at  # the same call again, after the answer to its commit was lost
        decision = decide(state, command, at, stored.occupant, facts)
        if stored.written:
            return Change(command, at, decision.outcome, state, state)
        if isinstance(decision, Refused):
            raise decision
        return replace(decision, steps=()) if applied else decision

    return rule


def device_wanted(command: Command) -> Device | None:
    """Whose occupant the rule has to know."""
    return getattr(command, "device", None)


def once(command: Command, *, applied: bool = False) -> str:
    """The id of the event that tells whether the command was carried out before: then it is not
    carried out again, whatever the agent's state is by now. "" where that cannot be.

    What is read from a note, and a command of the clock, has the same id however often it is found;
    somebody may have undone it since.
    """
    return f"{command.id}-1" if applied or command.source is Source.SYSTEM else ""


def again(log: Log) -> Again:
    """The rule that decides an open intent once more, as it was decided when it was begun. What
    cannot be decided, as another version has written it, say, is logged."""

    def rule(stored: Stored) -> Change | None:
        agent = stored.state.number
        try:
            decision = _again(stored)
        except Exception as error:  # it must not keep all others open
            log.error("an intent cannot be decided again", agent=agent, error=repr(error))
            return None
        if isinstance(decision, Refused):
            log.error("an intent cannot be decided again", agent=agent, why=str(decision))
            return None
        return decision

    return rule


def _again(stored: Stored) -> Decision:
    intent, state = stored.intent, stored.state
    assert intent is not None
    assert intent.recorded is not None
    command, facts = intent.recorded
    if isinstance(command, AddToQueue):
        # It was none of the agent's then; the YAML may have made it one since.
        others = tuple(m for m in state.memberships if m.queue != command.queue)
        state = replace(state, memberships=others)
    return decide(state, command, intent.at, facts=facts)
