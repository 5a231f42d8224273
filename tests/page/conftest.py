"""The live page in a real Chromium."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.page.parts import Browser, Office

MakeOffice = Callable[..., Office]


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(_chromium: Browser) -> Iterator[Browser]:
    """1400 pixels wide, light, at no page. What it complains of fails the test, unless the test
    has asked for ``complaints()`` itself."""
    _chromium.visit("about:blank")
    _chromium.size(1400, 900)
    _chromium.prefers(color_scheme="light")
    _chromium.complaints()
    yield _chromium
    complaints = _chromium.complaints()
    _chromium.visit("about:blank")
    assert complaints == []


@pytest.fixture
def make_office() -> Iterator[MakeOffice]:
    made: list[Office] = []

    def make(*agents: Any, **http: Any) -> Office:
        made.append(Office(*agents, **http))
        return made[-1]

    yield make
    for office in made:
        office.end()
