"""A service in memory behind a real HTTP server, and a real Chromium that looks at it."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from fastagi.agents.commands import Actor, Command, LogIn, LogOff, Pause, PauseReason, Unpause
from fastagi.agents.devices import Device
from fastagi.agents.events import Event
from fastagi.agents.model import AgentState
from fastagi.agents.records import AgentView
from fastagi.api.server import HttpServer
from fastagi.contract import EventType, Source
from fastagi.demo.asterisk import free_port
from tests.agents.memory import LUNCH, Clock, device
from tests.api.conftest import House, Reader, view

T = TypeVar("T")


# -- the service ----------------------------------------------------------------------------------


class Shown(Reader):
    """As the real store tells it: where each login and each pause came from, too."""

    def agents(self, numbers: Sequence[str] | None = None) -> list[AgentView]:
        self._there("agents")
        last: dict[tuple[str, EventType], Event] = {}
        for event in list(self.store.events.values()):
            last[event.agent, event.type] = event
        states = self.store.agents
        found = states.values() if numbers is None else [states[n] for n in numbers if n in states]
        views = [self._view(state, last) for state in list(found)]
        return sorted(views, key=lambda one: (len(one.number), one.number))

    @staticmethod
    def _view(state: AgentState, last: Mapping[tuple[str, EventType], Event]) -> AgentView:
        login = last.get((state.number, EventType.LOGIN)) if state.session else None
        pause = last.get((state.number, EventType.PAUSE)) if state.pause else None
        return replace(
            view(state),
            source=login.source if login else None,
            pause_source=pause.source if pause else None,
            by=login.actor.name if login else "",
            pause_by=pause.actor.name if pause else "",
        )


class Running(Clock):
    def __call__(self) -> datetime:
        return datetime.now(UTC)


class Office:
    """The application over a hall in memory on a port of this machine, in a thread of its own."""

    def __init__(self, *agents: AgentState, **http: Any) -> None:
        self.port = free_port()
        self.http = {"listen": f"127.0.0.1:{self.port}", **http}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="office")
        self.thread.start()
        self._agents = agents
        self.do(self._build())
        self.open()

    async def _build(self) -> None:
        self.house = House(AsyncExitStack(), *self._agents)
        self.house.reader = Shown(self.house.hall.store)
        # Time runs: the page counts in seconds.
        self.house.hall.clock = Running()
        self.house.hall.start()

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        """In the service's loop, and wait for it."""
        waiting: Future[T] = asyncio.run_coroutine_threadsafe(what, self.loop)
        return waiting.result(30)

    # -- its life

    def open(self) -> None:
        self.do(self._open())

    async def _open(self) -> None:
        changed = self.house.hall.service.changed
        changed.clear()
        app = self.house.application(**self.http)
        feed = self.house.feed
        changed.append(lambda change: feed.wake())
        self._feeding = asyncio.create_task(feed.run())
        context = self.house.context(**self.http)
        self._server = HttpServer(app, context.http, ending=feed.end)
        await self._server.start()

    def close(self) -> None:
        """As a stop does it: streams end, the port is closed."""
        self.do(self._close())

    async def _close(self) -> None:
        await self._server.drain(1)
        self._feeding.cancel()
        await asyncio.wait([self._feeding])

    def end(self) -> None:
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    # -- what happens there

    @property
    def agents(self) -> dict[str, AgentState]:
        return self.house.hall.store.agents

    def does(self, *commands: Command) -> None:
        async def all_of_them() -> None:
            for command in commands:
                await self.house.hall.service.execute(command)

        self.do(all_of_them())

    def _said(self, agent: str, source: Source) -> dict[str, Any]:
        actor = Actor(caller_id="1001") if source is Source.PHONE else Actor(name="crm")
        id = self.house.hall.service.new_id()
        return {"id": id, "agent": agent, "source": source, "actor": actor}

    def logs_in(
        self, agent: str, at: str = "", source: Source = Source.PHONE, where: Device | None = None
    ) -> None:
        place = where or device(at or agent)
        self.does(LogIn(**self._said(agent, source), device=place))

    def pauses(
        self, agent: str, reason: PauseReason = LUNCH, source: Source = Source.PHONE
    ) -> None:
        self.does(Pause(**self._said(agent, source), reason=reason))

    def comes_back(self, agent: str, source: Source = Source.PHONE) -> None:
        self.does(Unpause(**self._said(agent, source)))

    def logs_off(self, agent: str, source: Source = Source.PHONE) -> None:
        self.does(LogOff(**self._said(agent, source)))


# -- the browser ----------------------------------------------------------------------------------

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root, as in a container, has none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-default-apps",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--force-color-profile=srgb",
    "--lang=en",
)


class Browser:
    """Debian's Chromium, and what somebody who looks at the page sees."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # No program is looked for and fetched: it is Debian's, or the test fails.
        driver = Driver(executable_path="/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=driver)
        self.size(1400, 900)

    def quit(self) -> None:
        self.driver.quit()

    # -- how it looks at it

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Of the page itself, in its own pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefers(self, **features: str) -> None:
        """``color_scheme="dark"``"""
        named = [
            {"name": f"prefers-{k.replace('_', '-')}", "value": v} for k, v in features.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})

    def visit(self, url: str) -> None:
        self.driver.get(url)

    def fresh(self, url: str) -> None:
        """As somebody who was never there."""
        self.driver.execute_cdp_cmd(
            "Storage.clearDataForOrigin", {"origin": url.rstrip("/"), "storageTypes": "all"}
        )
        self.driver.get(url)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What is to be seen there; "" where nothing is."""
        with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
            return self.one(selector).text
        return ""

    def row(self, agent: str) -> str:
        """What is to be seen of an agent."""
        return self.text(f'tr[data-number="{agent}"]')

    def cell(self, agent: str, column: str) -> str:
        return self.text(f'tr[data-number="{agent}"] .c-{column}')

    def numbers(self) -> list[str]:
        """The agents to be seen, in order."""
        return list(
            self.run("return [...document.querySelectorAll('#rows tr')].map(r=>r.dataset.number)")
        )

    @property
    def focus(self) -> str:
        """What the keyboard is at: its name for a screen reader, else its id."""
        return str(
            self.run(
                "const e = document.activeElement;"
                "return e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim()"
                " || e.textContent.trim() || e.id || e.tagName"
            )
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def sees(self, condition: Callable[[], Any], what: str = "", within: float = 10) -> Any:
        """Waits until it is so; the limit only ends a test that has failed."""
        deadline = time.monotonic() + within
        while True:
            found = None
            with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
                found = condition()
            if found:
                return found
            if time.monotonic() > deadline:
                shown = self.text("body")
                raise AssertionError(f"was not seen within {within:g} s: {what}\n{shown}")
            time.sleep(0.02)

    def is_live(self) -> None:
        self.sees(lambda: self.text("#connection") == "Live", "the connection")

    def is_online_again(self) -> None:
        """The machine says so: the page need not wait for its next try."""
        self.run("window.dispatchEvent(new Event('online'))")

    def complaints(self) -> list[str]:
        """Errors and warnings of the page and of its security policy since the last question."""
        driver: Any = self.driver
        return [
            entry["message"]
            for entry in driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def shot(self, name: str) -> None:
        """Into the folder that ``PAGE_SHOTS`` names, for people to look at."""
        folder = os.environ.get("PAGE_SHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))
