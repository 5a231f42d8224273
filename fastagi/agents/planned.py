"""What waits for the end of a queue call: log-offs and pauses."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from fastagi.agents import errors
from fastagi.agents.commands import LogOff, Pause, WhenInCall
from fastagi.agents.fence import AWAY
from fastagi.agents.log import Log
from fastagi.agents.model import AgentState
from fastagi.agents.operations import QueuesUnavailable
from fastagi.agents.service import AgentService

REFUSED_AGAIN = timedelta(seconds=60)  # a planned change that Asterisk refused


class PlannedChanges:
    def __init__(self, service: AgentService, log: Log) -> None:
        self._service = service
        self._log = log
        self.waiting = True  # until it was looked
        self._not_before: dict[str, datetime] = {}  # by id of what was planned

    def try_all_now(self) -> None:
        """Also what was refused, after the clock was set."""
        self._not_before.clear()

    async def carry_out(self) -> None:
        """Raises StoreUnavailable, QueuesUnavailable, Unavailable."""
        self.waiting = False  # first: something may be planned while these are read
        try:
            plans = await self._service.store.planned()
            self.waiting |= bool(plans)
        except BaseException:
            self.waiting = True
            raise
        away: QueuesUnavailable | errors.Unavailable | None = None
        now = self._service.now()
        self._not_before = {
            planned.id: self._not_before[planned.id]
            for planned in plans
            if planned.id in self._not_before
        }
        for planned in plans:
            if self._not_before.get(planned.id, now) > now:
                continue
            try:
                with self._service.fence.item("settle", *AWAY, errors.Refused, agent=planned.agent):
                    await self._carry_out_one(planned)
                    continue
                self._not_before[planned.id] = now + REFUSED_AGAIN
            except (QueuesUnavailable, errors.Unavailable) as error:
                away = error
            except errors.Refused as refusal:
                self._not_before[planned.id] = now + REFUSED_AGAIN
                self._log.warning(
                    "what was planned was refused", agent=planned.agent, why=str(refusal)
                )
        if away is not None:
            raise away

    async def _carry_out_one(self, planned: LogOff | Pause) -> None:
        state = await self._service.store.agent(planned.agent)
        if state is None or state.session is None:
            return
        if await self._service.in_call(state):
            return
        now = replace(planned, id=f"{planned.id}-after", when_in_call=WhenInCall.ALLOW)

        def still(state: AgentState) -> errors.Refused | None:
            return None if state.planned == planned else errors.NotLoggedIn()

        # Who has logged in again meanwhile, or taken it back, stays.
        with suppress(errors.NotLoggedIn):
            await self._service.execute(now, only_if=still)
