"""The page and the whole of it: a real Asterisk, real phones, the service as a process."""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from fastagi.demo.asterisk import free_port
from tests.journey.parts import Desk, Service
from tests.page.conftest import _chromium as _chromium
from tests.page.conftest import browser as browser
from tests.page.parts import Browser

pytestmark = pytest.mark.asterisk

ALICE, BOB, EVIL = "4001", "4002", "4003"
NAME = "<img src=x onerror=alert(1)>"
TOKEN = "a-token-that-nobody-would-guess"
AGENTS = [
    {"number": ALICE, "name": "Alice Martin", "queues": ["sales", "support", "billing"]},
    {"number": BOB, "name": "Bob Keller", "queues": ["sales", "support"]},
    {"number": EVIL, "name": NAME, "queues": ["support"]},
]


class House:
    """The service and the address of its page."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.url = f"http://127.0.0.1:{port}/"

    async def asks(self, path: str, **body: Any) -> int:
        """A program's request; the status."""
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )

        def send() -> int:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)

        return await asyncio.to_thread(send)


@pytest.fixture
def house(make_service: Callable[..., Service]) -> House:
    port = free_port()
    service = make_service(
        agents=AGENTS,
        http={"listen": f"127.0.0.1:{port}", "tokens": {"desk": TOKEN}},
        reconcile={"every": "60s"},
    )
    return House(service, port)


@pytest.fixture
async def alice(desk: Callable[..., Any]) -> Desk:
    made: Desk = await desk("1001")
    return made


def enter(browser: Browser, house: House) -> None:
    browser.fresh(house.url)
    browser.sees(lambda: browser.one("#token").is_displayed(), "the question for the token")
    browser.press(TOKEN, Keys.ENTER)
    browser.is_live()
    assert {"401" in complaint for complaint in browser.complaints()} == {True}


async def seen(browser: Browser, condition: Callable[[], Any], what: str = "") -> None:
    await asyncio.to_thread(browser.sees, condition, what, 20)


async def test_a_morning(house: House, alice: Desk, browser: Browser) -> None:
    members = house.service.members
    enter(browser, house)
    browser.sees(lambda: browser.text("#nobody-words") == "Nobody is logged in.")

    assert (await alice.dial(f"*31{ALICE}")).outcome == "LOGGED_IN"
    assert await house.asks(
        f"0.1/agents/by-number/{BOB}/login", extension="1002", context="phones"
    ) in (200, 204)
    await seen(
        browser, lambda: browser.cell(BOB, "source") == "api (desk)", "who came by a program"
    )
    assert browser.cell(ALICE, "source") == "phone"
    assert browser.cell(ALICE, "extension") == "1001"
    assert browser.cell(ALICE, "queues").split() == ["sales", "support", "billing"]
    browser.shot("real-1-logged-in-by-phone-and-api")

    assert (await alice.dial("*331")).outcome == "PAUSED"
    await seen(browser, lambda: browser.cell(ALICE, "reason") == "lunch by phone", "her pause")
    await seen(browser, lambda: browser.cell(ALICE, "age") >= "0:01", "its running time")
    browser.shot("real-2-paused-by-phone")

    browser.click(f'tr[data-number="{ALICE}"] [data-act="unpause"]')
    await seen(browser, lambda: browser.cell(ALICE, "state") == "Available", "back")
    assert members()["sales"] == {"PJSIP/1001", "PJSIP/1002"}
    browser.click(f'tr[data-number="{BOB}"] [data-act="pause"]')
    browser.all("#reasons label")[1].click()
    browser.click("#pause .main")
    await seen(browser, lambda: browser.cell(BOB, "reason") == "break by api (desk)", "by the page")
    assert members()["sales"] == {"PJSIP/1001", "PJSIP/1002 paused:break"}
    house.service.agrees()
    browser.prefers(color_scheme="dark")
    browser.shot("real-3-paused-from-the-page-dark")
    browser.size(375, 812, phone=True)
    browser.shot("real-4-375-dark")
    browser.prefers(color_scheme="light")
    browser.shot("real-5-375")
    browser.size(1400, 900)

    assert (await alice.dial("*32")).outcome == "LOGGED_OFF"
    await seen(browser, lambda: browser.numbers() == [BOB], "her log-off")
    browser.click('[data-status="all"]')
    await seen(browser, lambda: browser.cell(ALICE, "state") == "Logged off")
    assert browser.cell(EVIL, "name") == NAME
    assert "by phone" in browser.text("#events li:first-child")
    browser.shot("real-6-logged-off-by-phone")
    assert await house.asks(f"0.1/agents/by-number/{BOB}/logoff") in (200, 204)
    await seen(browser, lambda: browser.cell(BOB, "state") == "Logged off", "by a program")
    assert "by api (desk)" in browser.text("#events li:first-child")
    browser.shot("real-7-logged-off-by-api")

    await alice.dial(f"*31{EVIL}")
    await seen(browser, lambda: browser.cell(EVIL, "state") == "Available", "the nasty name")
    browser.click(f'tr[data-number="{EVIL}"] [data-act="logoff"]')
    assert NAME in browser.text("#logoff-title")
    browser.click("#logoff .main")
    await seen(browser, lambda: browser.cell(EVIL, "state") == "Logged off", "by the page")
    assert set().union(*members().values()) == set()
    assert browser.run("return document.images.length") == 0
    last = house.service.events("agent-logout")[-1]
    assert (last["agent"], last["source"], last["actor"]) == (EVIL, "api", {"name": "desk"})


async def test_the_service_is_gone_and_back(house: House, alice: Desk, browser: Browser) -> None:
    enter(browser, house)
    await alice.dial(f"*31{ALICE}")
    await seen(browser, lambda: browser.numbers() == [ALICE], "her login")
    house.service.kill()
    await seen(browser, lambda: browser.text("#banner").startswith("Connection lost."))
    browser.shot("real-8-connection-lost")
    await asyncio.to_thread(house.service.start)
    assert await house.asks(
        f"0.1/agents/by-number/{BOB}/login", extension="1002", context="phones"
    ) in (200, 204)
    await seen(browser, lambda: browser.text("#connection") == "Live", "it is back")
    await seen(browser, lambda: browser.numbers() == [ALICE, BOB], "what was missed")
    assert browser.text("#banner") == ""
    assert len(browser.all("#events li")) == 2  # none missing, none twice
    browser.shot("real-9-connection-back")
    await asyncio.to_thread(house.service.stop)
    await seen(browser, lambda: browser.text("#connection") == "Not connected", "an orderly stop")
    assert all("ERR_" in complaint for complaint in browser.complaints())
