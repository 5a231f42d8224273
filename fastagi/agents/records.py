"""Shapes that the hall and another room know."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from fastagi.agents.commands import Command, Facts
from fastagi.agents.lockout import Lockout
from fastagi.agents.model import AgentState

# -- what the store gives to a rule of the hall


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that was begun and neither confirmed nor taken back."""

    id: str  # the command's
    at: datetime  # when it was decided
    ours: bool  # whether it is for this service to settle
    recorded: tuple[Command, Facts] | None = None  # where it is to be decided again


@dataclass(frozen=True, slots=True)
class Stored:
    """An agent as the store has it, while nobody else changes it."""

    state: AgentState
    archived: bool
    intent: Intent | None = None
    occupant: str | None = None  # the number of the other agent who has the device asked for
    written: bool = False  # whether the event asked for is there


# -- the admin's choices that hold for every interface


@dataclass(frozen=True, slots=True)
class Policy:
    lockout: Lockout
    zone: tzinfo = UTC  # where a day begins at midnight
    refuse_missing_queue: bool = False  # a login while Asterisk lacks one of the agent's queues
