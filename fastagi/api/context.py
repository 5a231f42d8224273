"""What the handlers of the interfaces may use."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastagi.agents.devices import Device, DeviceRule, resolve
from fastagi.agents.model import Status
from fastagi.agents.ports import Directory, Figures, Hooks, Reading, Records, Storage, Tester
from fastagi.agents.records import AgentView
from fastagi.agents.service import AgentService
from fastagi.config.settings import HttpSettings, LoginSettings, PauseSettings

if TYPE_CHECKING:
    from fastagi.api.stream import Feed

_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,79}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Context:
    """Made by ``app.py``. The callables give what holds now: settings are reloaded."""

    service: AgentService
    directory: Directory
    reading: Reading
    records: Records
    hooks: Hooks
    tester: Tester
    figures: Figures
    storage: Storage
    feed: "Feed"
    http: HttpSettings
    rules: Callable[[], Sequence[DeviceRule]]
    login: Callable[[], LoginSettings]
    pause: Callable[[], PauseSettings]
    version: str
    log: Any  # structlog's
    # The tasks of the service that have failed and have not recovered yet, by name.
    tasks_down: Callable[[], Sequence[str]] = tuple
    # openapi.json; the dispatcher knows it.
    document: Callable[[], Awaitable[bytes]] | None = None

    def known(self, view: AgentView) -> bool:
        """Whether it is known that the agent is as ``view`` says."""
        return self.service.known(view.asterisk if view.status is not Status.LOGGED_OFF else None)

    def links(self) -> dict[str, Any]:
        """What the answers rest on, for JSON: whether the store can be relied on, and whether each
        Asterisk is connected, by name ("" where there is only one)."""
        queues = self.service.queues
        return {
            "store": self.service.store_usable(),
            "asterisks": {name: queues.connected(name) for name in queues.names},
        }

    def device(self, extension: str, context: str, asterisk: str = "") -> Device | None:
        """Where an agent is who sits there; None: no device rule says so. A rule that names no
        context serves all. ``asterisk``: the first one where there are several."""
        names = self.service.queues.names
        if asterisk and asterisk not in names:
            return None
        rules = [rule for rule in self.rules() if not context or rule.context in ("", context)]
        device = resolve(rules, extension, asterisk or names[0])
        if device is not None and not device.context and _CONTEXT.fullmatch(context):
            return replace(device, context=context)
        return device
