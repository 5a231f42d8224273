"""Two phones stand in queues.conf, and one of the queues does not."""

import pytest
from hypothesis import strategies as st

from fastagi.demo.asterisk import Asterisk
from tests.truth.conftest import Trials
from tests.truth.program import AGENTS, QUEUES, WITH_PIN, asks, dials, programs, queues_of, rests

pytestmark = pytest.mark.timeout(1800)

STATIC = {"sales": "PJSIP/1003", "support": "PJSIP/1004", "billing": "PJSIP/1004"}
SECTIONS = "".join(
    f"[{queue}]\nringinuse = no\nmember => {interface},4,Front desk\n\n"
    for queue, interface in STATIC.items()
)


def test_static_members_and_a_missing_queue_in_trouble(
    trials: Trials, own_asterisk: Asterisk
) -> None:
    """Whoever is off is not rung by a static member, whatever fails meanwhile; and nobody is kept
    out by a queue that Asterisk lacks."""
    own_asterisk.queue_sections = SECTIONS
    own_asterisk.reload("queues")
    agents = [
        {
            "number": number,
            "name": f"Agent {number}",
            "queues": [{"name": q, "penalty": p} for q, p in queues_of(number).items()]
            + ([{"name": "ghost"}] if int(number) % 2 else []),
        }
        | ({"pin": WITH_PIN[number]} if number in WITH_PIN else {})
        for number in AGENTS
    ]
    numbers = {**QUEUES, "704": "ghost"}
    queues = [{"number": number, "name": name} for number, name in numbers.items()]
    deeds = st.one_of(dials(), dials(), asks(), rests)
    trials(programs(deeds, length=40, trouble=2), changes={"queues": queues, "agents": agents})
