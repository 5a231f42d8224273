"""What a supervisor sees and does: the page in a real Chromium, over a service in memory."""

import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from fastagi.agents.commands import LogOff, WhenInCall
from fastagi.agents.limits import PauseLimit, WhenExceeded
from fastagi.agents.model import AgentState, LoginSession, OwnPause
from fastagi.contract import Source
from tests.agents.memory import BREAK, LUNCH, an_agent, device
from tests.page.conftest import MakeOffice
from tests.page.parts import Browser, Office

ALICE, BOB, CAROL, EVIL = "4001", "4002", "4003", "4004"
SECOND = timedelta(seconds=1)
SCRIPT = '<img src=x onerror="document.body.dataset.hacked=1">\'&amp;</td>'


def agent(number: str, name: str, *queues: str) -> AgentState:
    return replace(an_agent(number, *queues), name=name)


def people() -> list[AgentState]:
    return [
        agent(ALICE, "Alice Martin", "sales", "support", "billing"),
        agent(BOB, "Bob Keller", "sales", "support"),
        agent(CAROL, "Carol Singh", "support", "billing"),
        agent(EVIL, SCRIPT, "sales"),
    ]


@pytest.fixture
def office(make_office: MakeOffice) -> Office:
    """Alice and Bob are there, Carol and one with a nasty name are not."""
    made = make_office(*people())
    made.logs_in(ALICE, "1001")
    made.logs_in(BOB, "1002", Source.API)
    return made


@pytest.fixture
def page(office: Office, browser: Browser) -> Browser:
    """What a supervisor at this machine sees."""
    browser.fresh(office.url)
    browser.is_live()
    return browser


def button(agent: str, act: str) -> str:
    return f'tr[data-number="{agent}"] [data-act="{act}"]'


def counts(page: Browser) -> str:
    return page.text("#states").replace("\n", " ")


# -- what is seen -----------------------------------------------------------------------------


def test_who_is_where(office: Office, page: Browser) -> None:
    assert page.numbers() == [ALICE, BOB]  # who is logged off is counted, and not in the way
    assert counts(page) == "2 Logged in 2 Available 0 Paused 2 Logged off 4 All"
    assert page.cell(ALICE, "name") == "Alice Martin"
    assert page.cell(ALICE, "state") == "Available"
    assert page.cell(ALICE, "extension") == "1001"
    assert page.cell(ALICE, "queues").split() == ["sales", "support", "billing"]
    assert page.cell(ALICE, "source") == "phone"
    assert page.cell(BOB, "source") == "api (crm)"
    since = page.one(f'tr[data-number="{ALICE}"] .c-since time').get_attribute("datetime")
    session = office.agents[ALICE].session
    assert session is not None
    assert datetime.fromisoformat(str(since)) == session.since
    page.shot("logged-in")


def test_what_happens_is_shown_as_it_happens(office: Office, page: Browser) -> None:
    office.logs_in(CAROL, "1003", Source.API)
    page.sees(lambda: page.cell(CAROL, "source") == "api (crm)", "a login by a program")
    office.pauses(ALICE, LUNCH)
    office.pauses(BOB, BREAK, Source.API)
    page.sees(lambda: page.cell(ALICE, "state") == "Paused", "a pause by phone")
    page.sees(lambda: page.cell(BOB, "reason") == "break by api (crm)", "a pause by a program")
    assert page.cell(ALICE, "reason") == "lunch by phone"
    assert counts(page) == "3 Logged in 1 Available 2 Paused 1 Logged off 4 All"
    page.shot("paused")
    office.comes_back(ALICE)
    page.sees(lambda: page.cell(ALICE, "state") == "Available", "the end of a pause")
    assert page.cell(ALICE, "reason") == page.cell(ALICE, "age") == ""
    office.logs_off(ALICE)
    office.logs_off(BOB, Source.API)
    page.sees(lambda: page.numbers() == [CAROL], "both log-offs")

    page.sees(lambda: len(page.all("#events li")) == 8, "every event")
    latest = page.text("#events li:nth-child(1)").replace("\n", " ")
    assert re.fullmatch(r"\d\d:\d\d:\d\d 4002 Bob Keller logged off by api \(crm\)", latest), latest
    before = page.text("#events li:nth-child(2)").replace("\n", " ")
    assert before.endswith("4001 Alice Martin logged off by phone")
    page.click('[data-status="all"]')
    page.sees(lambda: page.cell(ALICE, "state") == "Logged off", "those who are logged off")
    assert page.cell(ALICE, "extension") == page.cell(ALICE, "since") == ""
    page.shot("logged-off")


def test_the_time_of_a_pause_runs(office: Office, page: Browser) -> None:
    office.pauses(ALICE)
    page.sees(lambda: page.cell(ALICE, "age"), "a running time")
    width = page.one(f'tr[data-number="{ALICE}"] .c-age').rect
    seen = page.cell(ALICE, "age")
    page.sees(lambda: page.cell(ALICE, "age") != seen, "the next second")
    assert page.one(f'tr[data-number="{ALICE}"] .c-age').rect == width
    pause = office.agents[ALICE].pause
    assert pause is not None
    long = replace(pause, since=pause.since - timedelta(hours=2, minutes=3, seconds=4))
    office.agents[ALICE] = replace(office.agents[ALICE], pause=long)
    page.driver.refresh()
    page.sees(lambda: page.cell(ALICE, "age").startswith("2:03:"), "hours")


def test_a_clock_that_is_wrong(office: Office, browser: Browser) -> None:
    """The browser's clock is three hours behind: ages are those of the server."""
    office.pauses(ALICE)
    behind = "const real = Date.now; Date.now = () => real() - 3 * 3600 * 1000;"
    script = browser.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": behind}
    )
    try:
        browser.fresh(office.url)
        browser.sees(lambda: re.fullmatch(r"0:\d\d", browser.cell(ALICE, "age")), "a true age")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_what_is_the_agents_own_in_a_queue(office: Office, page: Browser) -> None:
    state = office.agents[ALICE]
    sales, support, billing = state.memberships
    mine = (replace(sales, own_pause=OwnPause(True)), replace(support, joined=False), billing)
    office.agents[ALICE] = replace(state, memberships=mine)
    page.driver.refresh()
    page.sees(lambda: "sales paused" in page.cell(ALICE, "queues"), "a pause in one queue")
    left = page.one(f'tr[data-number="{ALICE}"] .queue.out')
    assert left.get_property("textContent") == "support not in it"


def test_what_waits_for_the_end_of_a_call(office: Office, page: Browser) -> None:
    office.house.hall.asterisk.calls.add("pjsip/1001")
    page.click(button(ALICE, "logoff"))
    page.press(Keys.TAB, Keys.ENTER)
    page.sees(lambda: "logs off after the call" in page.cell(ALICE, "state"), "the plan")
    page.sees(lambda: "when the call ends" in page.cell(ALICE, "actions"), "the answer")


def test_names_are_text(office: Office, page: Browser) -> None:
    office.logs_in(EVIL, "1004")
    page.sees(lambda: page.cell(EVIL, "name") == SCRIPT, "the name as it is")
    page.sees(lambda: SCRIPT in page.text("#events"), "in the events, too")
    page.click(button(EVIL, "pause"))
    assert SCRIPT in page.text("#pause-title")
    page.press(Keys.ESCAPE)
    assert page.run("return document.images.length") == 0
    assert page.run("return document.body.dataset.hacked") is None
    page.shot("nasty-name")


# -- finding ----------------------------------------------------------------------------------


def test_filters(office: Office, page: Browser) -> None:
    office.logs_in(CAROL, "1003")
    office.pauses(BOB, BREAK)
    page.sees(lambda: page.cell(BOB, "state") == "Paused")
    page.click('[data-status="paused"]')
    page.sees(lambda: page.numbers() == [BOB], "the paused ones")
    assert page.one('[data-status="paused"]').get_attribute("aria-pressed") == "true"
    assert page.one('[data-status="in"]').get_attribute("aria-pressed") == "false"
    page.click('[data-status="logged_off"]')
    page.sees(lambda: page.numbers() == [EVIL])
    page.click('[data-status="in"]')

    queue = Select(page.one("#queue"))
    queue.select_by_value("billing")
    page.sees(lambda: page.numbers() == [ALICE, CAROL], "those in billing")
    assert counts(page) == "2 Logged in 2 Available 0 Paused 0 Logged off 2 All"
    queue.select_by_visible_text("All queues")
    page.sees(lambda: len(page.numbers()) == 3)

    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    page.press("break 1002")
    page.sees(lambda: page.numbers() == [BOB], "what was typed")
    page.press(Keys.ESCAPE)
    page.sees(lambda: len(page.numbers()) == 3, "all again")
    page.press("nobody/here")
    page.sees(lambda: page.text("#nobody-words") == "Nobody matches.")
    assert page.one("#search").get_property("value") == "nobody/here"
    page.click("#clear")
    page.sees(lambda: len(page.numbers()) == 4)


def test_sorting(office: Office, page: Browser) -> None:
    office.logs_in(CAROL, "1003")
    office.pauses(CAROL)
    page.sees(lambda: page.cell(CAROL, "state") == "Paused")

    def sorts(column: str, how: str, order: list[str]) -> None:
        """The page draws a moment after the click: an order may have been the same before it."""
        page.click(f'th[data-sort="{column}"] button')
        head = f'th[data-sort="{column}"]'
        page.sees(lambda: page.one(head).get_attribute("aria-sort") == how, f"{column} {how}")
        page.sees(lambda: page.numbers() == order, column)

    for column, order in {
        "name": [ALICE, BOB, CAROL],
        "status": [CAROL, ALICE, BOB],
        "paused": [CAROL, ALICE, BOB],
        "source": [BOB, ALICE, CAROL],
    }.items():
        sorts(column, "ascending", order)
    sorts("source", "descending", [ALICE, CAROL, BOB])
    sorted_by = page.run(
        "return [...document.querySelectorAll('th[aria-sort]')]"
        ".filter((th) => th.getAttribute('aria-sort') !== 'none').length"
    )
    assert sorted_by == 1


def test_ten_thousand_agents(make_office: MakeOffice, browser: Browser) -> None:
    since = datetime.now(UTC)
    everybody = []
    for n in range(10_000):
        state = agent(str(10_000 + n), f"Agent {n}", ("sales", "support")[n % 2])
        if n % 10:
            session = LoginSession(f"s{n}", device(str(20_000 + n)), since)
            there = tuple(replace(m, joined=True) for m in state.memberships)
            state = replace(state, session=session, memberships=there)
        everybody.append(state)
    office = make_office(*everybody)
    browser.fresh(office.url)
    browser.is_live()
    browser.sees(lambda: len(browser.numbers()) == 200, "two hundred rows")
    assert counts(browser) == "9,000 Logged in 9,000 Available 0 Paused 1,000 Logged off 10,000 All"
    assert browser.text("#more").startswith("The first 200 of 9,000: 8,800 more match.")
    browser.one("#search").send_keys("19999")
    browser.sees(lambda: browser.numbers() == ["19999"], "one of them")
    assert browser.text("#more") == ""
    office.logs_off("19999")
    browser.sees(lambda: counts(browser).startswith("0 Logged in"), "what happens to it")


# -- doing ------------------------------------------------------------------------------------


def test_pause_back_and_log_off(office: Office, page: Browser) -> None:
    page.click(button(ALICE, "pause"))
    assert page.text("#pause-title") == "Pause Alice Martin (4001)"
    page.shot("pause-dialog")
    page.all("#reasons label")[1].click()
    page.click("#pause .main")
    page.sees(lambda: page.cell(ALICE, "reason") == "break by api (local)", "the pause")
    assert page.focus == "Back: end the pause of Alice Martin (4001)"
    page.click(button(ALICE, "unpause"))
    page.sees(lambda: page.cell(ALICE, "state") == "Available", "the end of the pause")
    page.click(button(ALICE, "logoff"))
    assert page.text("#logoff-title") == "Log off Alice Martin (4001)?"
    page.shot("logoff-dialog")
    page.click("#logoff .cancel")
    assert page.numbers() == [ALICE, BOB]
    page.click(button(ALICE, "logoff"))
    page.click("#logoff .main")
    page.sees(lambda: page.numbers() == [BOB], "the log-off")
    assert page.focus == "Pause Bob Keller (4002)"  # the row that is there now
    made = office.house.hall.events[2:]
    assert {(event.source, event.actor.name) for event in made} == {(Source.API, "local")}
    office.house.hall.all_well()


def test_refusals_in_words(office: Office, page: Browser) -> None:
    hall = office.house.hall
    hall.asterisk.linked = False
    page.click(button(ALICE, "logoff"))
    page.click("#logoff .main")
    page.sees(lambda: "try again" in page.cell(ALICE, "actions").lower(), "the link is down")
    # Nothing was changed; once the page has heard that the link is down, it claims no more.
    assert page.cell(ALICE, "state") in ("Available", "Unknown\nwas available")
    assert page.complaints()  # Chromium notes the 503
    hall.asterisk.linked = True
    page.click(button(BOB, "pause"))
    now = datetime.now(UTC)
    hall.store.known_limits[LUNCH.code] = PauseLimit(None, SECOND, WhenExceeded.UNPAUSE)
    hall.store.ended_pauses.append((BOB, LUNCH.code, now - 2 * SECOND, now))
    page.click("#pause .main")
    page.sees(lambda: "used up" in page.cell(BOB, "actions"), "the budget is spent")
    page.shot("refused")
    assert all("409" in complaint for complaint in page.complaints())


def test_who_may_only_read(make_office: MakeOffice, browser: Browser) -> None:
    office = make_office(*people(), tokens={"wall": {"token": "w" * 32, "rights": ["read"]}})
    office.logs_in(ALICE, "1001")
    browser.fresh(office.url)
    browser.sees(lambda: browser.one("#token").is_displayed())
    browser.press("w" * 32, Keys.ENTER)
    browser.is_live()
    assert browser.text("#client") == "wall · may look on"
    assert [b for b in browser.all("#rows button") if b.is_displayed()] == []
    browser.complaints()  # of the first try without a token


# -- tokens -----------------------------------------------------------------------------------

TOKEN = "a-token-of-more-than-enough-letters"


def test_the_token(make_office: MakeOffice, browser: Browser) -> None:
    office = make_office(*people(), tokens={"desk": TOKEN})
    office.logs_in(ALICE, "1001")
    browser.fresh(office.url)
    browser.sees(lambda: browser.one("#token").is_displayed(), "the question")
    assert browser.focus == "Token"
    assert browser.text("#connection") == "Token needed"
    browser.shot("token")
    browser.press("wrong-" + TOKEN, Keys.ENTER)
    browser.sees(lambda: browser.text("#entry-problem"), "that it is wrong")
    assert browser.text("#entry-problem") == "The server does not know this token."
    assert not browser.one("#live").is_displayed()
    assert all("401" in complaint for complaint in browser.complaints())
    browser.one("#token").clear()
    browser.one("#token").send_keys(TOKEN, Keys.ENTER)
    browser.is_live()
    assert browser.numbers() == [ALICE]
    assert browser.text("#client") == "desk · may pause and log off"

    browser.driver.refresh()
    browser.is_live()  # it was entered once
    assert browser.run("return localStorage.length") == 0  # and goes with the tab
    asked = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert asked
    assert not any(TOKEN in url for url in [*asked, browser.driver.current_url])
    browser.click("#forget")
    browser.sees(lambda: browser.one("#token").is_displayed(), "the question again")
    assert browser.run("return localStorage.length + sessionStorage.length") == 0
    assert TOKEN not in browser.driver.page_source
    browser.one("#keep").click()
    browser.one("#token").send_keys(TOKEN, Keys.ENTER)
    browser.is_live()
    assert browser.run("return sessionStorage.length") == 0
    assert browser.run("return localStorage.length") == 1
    browser.click("#forget")
    browser.sees(lambda: browser.one("#token").is_displayed(), "the question again")
    assert browser.run("return localStorage.length + sessionStorage.length") == 0
    browser.complaints()


def test_too_many_wrong_tokens(make_office: MakeOffice, browser: Browser) -> None:
    office = make_office(*people(), tokens={"desk": TOKEN}, lockout={"failures": 2})
    browser.fresh(office.url)
    for n in range(3):
        browser.sees(lambda: browser.one("#token").is_displayed())
        browser.one("#token").send_keys(f"wrong-token-number-{n}-{TOKEN}", Keys.ENTER)
        browser.sees(lambda: browser.text("#entry-problem"))
    browser.sees(lambda: "Too many wrong tokens" in browser.text("#entry-problem"))
    browser.complaints()


# -- the connection ---------------------------------------------------------------------------


def test_lost_and_back(office: Office, page: Browser) -> None:
    office.pauses(ALICE)
    page.sees(lambda: page.cell(ALICE, "age"))
    office.close()
    page.sees(lambda: page.text("#banner").startswith("Connection lost."), "the banner")
    assert page.one("#banner").get_attribute("role") == "alert"
    assert page.text("#connection") == "Not connected"
    stands = page.cell(ALICE, "age")
    office.comes_back(ALICE)  # nobody tells the page
    office.logs_in(CAROL, "1003")
    time.sleep(1.2)
    assert page.cell(ALICE, "age") == stands  # what is not known does not run on
    page.click(button(BOB, "unpause") if page.cell(BOB, "age") else button(BOB, "logoff"))
    page.click("#logoff .main")
    page.sees(lambda: "nothing was done" in page.cell(BOB, "actions"), "why it cannot be")
    page.shot("lost")
    office.open()
    page.is_online_again()
    page.is_live()
    page.sees(lambda: page.cell(CAROL, "state") == "Available", "what was missed")
    page.sees(lambda: page.cell(ALICE, "state") == "Available")
    assert page.text("#banner") == ""
    page.sees(lambda: len(page.all("#events li")) == 5, "each event once")
    page.shot("back")
    assert all("ERR_CONNECTION" in c or "ERR_INCOMPLETE" in c for c in page.complaints())


def test_another_database(office: Office, page: Browser) -> None:
    """The service comes back with fewer events than the page has seen."""
    office.close()
    page.sees(lambda: page.text("#banner"))
    store = office.house.hall.store
    store.events = dict(list(store.events.items())[:1])
    store.agents[BOB] = people()[1]
    office.open()
    page.is_online_again()
    page.is_live()
    page.sees(lambda: page.numbers() == [ALICE], "all was asked for again")
    page.sees(lambda: len(page.all("#events li")) == 1)
    page.complaints()


def test_asterisk_is_away(office: Office, page: Browser) -> None:
    """The page says so, in red, and claims of nobody to be available."""
    office.pauses(ALICE)
    page.sees(lambda: page.cell(ALICE, "age"))
    assert page.one(f'tr[data-number="{BOB}"] .state').get_attribute("title") == (
        "Logged in and not paused. Whether the agent is in a call is not shown."
    )
    office.house.hall.asterisk.linked = False
    page.sees(lambda: page.text("#connection") == "Asterisk away", "the words at the top")
    page.sees(lambda: page.cell(BOB, "state") == "Unknown\nwas available", "his state")
    assert page.cell(ALICE, "state") == "Unknown\nwas paused"
    assert page.cell(ALICE, "age") == ""  # nobody knows whether the pause goes on
    assert page.text("#banner") == (
        "Not connected to Asterisk: how agents are there now is not known."
        " You see what was known last."
    )
    assert page.one("#banner").get_attribute("role") == "alert"
    assert page.driver.title == "⚠ Asterisk away · Agents"
    red = page.run("return getComputedStyle(document.getElementById('connection')).color")
    assert red == page.run("return getComputedStyle(document.getElementById('banner')).color")
    assert counts(page) == "2 Logged in 0 Available 0 Paused 2 Unknown 2 Logged off 4 All"
    page.click('[data-status="unknown"]')
    page.sees(lambda: page.numbers() == [ALICE, BOB], "those who are unknown")
    page.click('[data-status="logged_off"]')
    page.sees(lambda: page.cell(CAROL, "state") == "Logged off", "who is on no Asterisk")
    page.click('[data-status="in"]')
    page.shot("asterisk-away")
    office.house.hall.asterisk.linked = True
    page.is_live()
    page.sees(lambda: page.cell(BOB, "state") == "Available", "what is known again")
    page.sees(lambda: page.cell(ALICE, "age"))
    assert (page.text("#banner"), page.driver.title) == ("", "Agents")
    assert counts(page) == "2 Logged in 1 Available 1 Paused 2 Logged off 4 All"


def test_the_store_cannot_be_used(office: Office, page: Browser) -> None:
    """It can be read, and yet it is not what the phones are told from."""
    office.house.hall.service.store_usable = lambda: False
    page.sees(lambda: page.text("#connection") == "Database away", "the words at the top")
    page.sees(lambda: "Unknown" in page.cell(BOB, "state"), "his state")
    assert page.text("#banner").startswith("The database cannot be used:")
    office.house.hall.service.store_usable = lambda: True
    page.is_live()
    page.sees(lambda: page.cell(BOB, "state") == "Available")


def test_what_another_program_plans(office: Office, page: Browser) -> None:
    """No event tells of it, and the page shows it all the same."""
    office.house.hall.asterisk.calls.add("pjsip/1001")
    said = {"when_in_call": WhenInCall.AFTER_CALL}
    office.does(LogOff(**office._said(ALICE, Source.API), **said))
    page.sees(lambda: "logs off after the call" in page.cell(ALICE, "state"), "the plan")


def test_the_store_is_away(office: Office, browser: Browser) -> None:
    store = office.house.hall.store
    store.down = {"agents"}
    browser.fresh(office.url)
    browser.sees(lambda: "database is away" in browser.text("#banner"), "the banner")
    store.down = set()
    browser.is_live()
    browser.sees(lambda: browser.numbers() == [ALICE, BOB])
    # And while it looks on: what happens then is shown when the store can tell it.
    store.down = {"agents"}
    office.pauses(ALICE)
    browser.sees(lambda: "paused: lunch" in browser.text("#events"))
    browser.sees(lambda: "database is away" in browser.text("#banner"), "the banner again")
    store.down = set()
    browser.is_live()
    browser.sees(lambda: browser.cell(ALICE, "state") == "Paused")
    assert all("503" in complaint for complaint in browser.complaints())


# -- for everybody ----------------------------------------------------------------------------


def test_on_a_phones_screen(office: Office, page: Browser) -> None:
    office.pauses(ALICE)
    page.size(375, 812, phone=True)
    page.driver.refresh()
    page.sees(lambda: page.cell(ALICE, "age"))
    page.shot("375")
    assert page.run("return document.documentElement.scrollWidth") <= 375
    wide = page.run(
        "return [...document.querySelectorAll('body *')].filter((e) => {"
        " const r = e.getBoundingClientRect();"
        " return r.width > 1 && r.height > 1 && (r.right > 375.5 || r.left < -0.5);"
        "}).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    heights = [b.size["height"] for b in page.all("#rows button") if b.is_displayed()]
    assert min(heights) >= 36  # a thumb's
    first, second = page.all("#rows tr")[:2]
    assert second.rect["y"] >= first.rect["y"] + first.rect["height"]  # cards, one below the other
    Select(page.one("#sort")).select_by_visible_text("Sort: name, downwards")
    page.sees(lambda: page.numbers() == [BOB, ALICE])
    assert "Extension" in page.run(
        "return getComputedStyle(document.querySelector('#rows .c-extension'), '::before').content"
    )
    # For a screen reader it is a table all the same.
    assert {"table", "row", "rowheader", "cell"} <= roles(page)


def roles(page: Browser) -> set[str]:
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
    return {node["role"]["value"] for node in tree["nodes"] if not node.get("ignored")}


def test_for_a_screen_reader(office: Office, page: Browser) -> None:
    assert {"banner", "main", "table", "columnheader", "rowheader", "status", "search"} <= roles(
        page
    )
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nameless = [
        node["role"]["value"]
        for node in tree
        if node.get("role", {}).get("value") in ("button", "textbox", "searchbox", "combobox")
        and not node.get("ignored")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []
    office.pauses(ALICE)
    page.sees(
        lambda: page.one("#announce").get_property("textContent") == "Alice Martin paused: lunch.",
        "what is said",
    )
    assert page.one("#announce").get_attribute("aria-live") == "polite"


def test_many_changes_are_not_a_flood(make_office: MakeOffice, browser: Browser) -> None:
    office = make_office(*(agent(str(n), f"Agent {n}", "sales") for n in range(4000, 4030)))
    browser.fresh(office.url)
    browser.is_live()
    for n in range(4000, 4030):
        office.logs_in(str(n))
    said = browser.sees(lambda: browser.one("#announce").get_property("textContent"))
    assert re.fullmatch(r"\d+ agents have changed\.", said), said


def test_by_keyboard_alone(office: Office, page: Browser) -> None:
    page.run("document.body.focus()")
    page.press(Keys.TAB)
    assert page.focus == "Skip to the agents"
    page.shot("skip-link")
    page.press(Keys.ENTER)
    assert page.focus == "Agents"
    for _ in range(9):  # the column headers
        page.press(Keys.TAB)
    assert page.focus == "By"
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.press(Keys.TAB)
    assert page.focus == "Pause Alice Martin (4001)"
    page.press(Keys.ENTER)
    assert page.focus == "lunch"
    page.press(Keys.ARROW_DOWN)
    assert page.focus == "break"
    page.press(Keys.ENTER)
    page.sees(lambda: page.cell(ALICE, "reason") == "break by api (local)")
    assert page.focus == "Back: end the pause of Alice Martin (4001)"
    page.press(Keys.SPACE)
    page.sees(lambda: page.cell(ALICE, "state") == "Available")
    assert page.focus == "Pause Alice Martin (4001)"
    page.press(Keys.TAB)
    assert page.focus == "Log off Alice Martin (4001)"
    page.press(Keys.ENTER)
    assert page.focus == "Cancel"
    page.press(Keys.ESCAPE)
    assert page.focus == "Log off Alice Martin (4001)"
    assert page.numbers() == [ALICE, BOB]


CONTRASTS = """
const parse = (color) => {
  const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) =>
  0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color[3] === 1) return color;
    if (color[3] !== 0) return null;
  }
  return parse(getComputedStyle(document.documentElement).backgroundColor);
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  const text = walker.currentNode.data.trim();
  if (!text || !e.checkVisibility() || e.closest('.said, .skip, option')) continue;
  const under = ground(e);
  if (!under) continue;
  seen += 1;
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(under)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push(`${text}: ${ratio.toFixed(2)}`);
}
return [seen, poor];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_legible(office: Office, page: Browser, scheme: str) -> None:
    office.pauses(ALICE)
    page.prefers(color_scheme=scheme)
    page.click('[data-status="all"]')
    page.sees(lambda: page.cell(ALICE, "age"))
    assert page.run(CONTRASTS)[1] == []
    office.house.hall.asterisk.linked = False
    page.sees(lambda: page.cell(ALICE, "state").startswith("Unknown"), "what is not known")
    page.click(button(BOB, "logoff"))
    seen, poor = page.run(CONTRASTS)
    assert (seen > 30, poor) == (True, [])
    page.click("#logoff .main")
    page.sees(lambda: "try again" in page.cell(BOB, "actions").lower())
    page.shot(scheme)
    assert page.run(CONTRASTS)[1] == []
    office.close()
    page.sees(lambda: page.text("#banner"))
    assert page.run(CONTRASTS)[1] == []
    dark = page.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", dark))) < 60) == (scheme == "dark")
    office.open()
    page.complaints()
