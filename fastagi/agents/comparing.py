"""The store and one Asterisk, compared as they are now."""

from collections.abc import Callable, Sequence

from fastagi.agents.differences import Difference, differences, number_in
from fastagi.agents.model import AgentState
from fastagi.agents.operations import ReportedMember
from fastagi.agents.service import AgentService


async def compare(
    service: AgentService,
    asterisk: str,
    look: Callable[[Sequence[ReportedMember]], None] = lambda reported: None,
) -> list[Difference]:
    """What differs, without any lock: changes on their way are among it. ``look`` gets the members
    that Asterisk reports. Raises StoreUnavailable, QueuesUnavailable."""
    queues = await service.store.queue_names()
    agents = await service.store.logged_in()
    reported = await service.queues.members(asterisk)
    look(reported)
    named = {number_in(m.name) for m in reported} - {agent.number for agent in agents} - {""}
    more = await service.store.states(sorted(named))
    found: list[Difference] = []

    def differ(some: Sequence[AgentState]) -> None:
        found.extend(differences(some, reported, asterisk, queues, service.queues.names))

    everybody = [*agents, *more.values()]
    try:
        differ(everybody)
    except Exception:  # of one of them: the others are compared without
        for agent in everybody:
            with service.fence.item("reconcile", agent=agent.number):
                differ([agent])
    return found
