"""What the property tests have found, each as the shortest program that showed it."""

import pytest

from tests.truth.conftest import Story
from tests.truth.program import Ask, Console, Dial, Fault, Rest, Step


def test_the_lamp_of_who_logged_off_just_before_asterisk_died(story: Story) -> None:
    """Asterisk writes its database once a second: a killed one comes back with a lamp of before,
    also of agents who are not logged in any more."""
    story(
        Step(Dial("1001", "*314001")),
        Step(Rest()),
        Step(Dial("1001", "*32"), after=300),
        Step(Fault("kill asterisk", lasts=30), after=200),
    )


def test_an_unpause_that_the_service_began_and_the_fallback_finished(story: Story) -> None:
    """Killed before Asterisk was told; the dialplan goes on with the fallback, which unpauses and
    says so. The intent of the service was then taken back in Asterisk, the note written down, and
    the pause of the settlement adopted as if from the console."""
    story(
        Step(Dial("1001", "*314001")),
        Step(Dial("1001", "*331"), after=200),
        Step(Rest()),
        Step(Fault("kill service", lasts=1500, at="QueuePause"), after=100),
        Step(Dial("1001", "*34", real=True), after=100),
    )


def test_a_toggle_that_the_service_began_is_not_toggled_back_by_the_fallback(
    story: Story,
) -> None:
    """Killed after Asterisk had paused the agent: the fallback saw the pause, and ended it."""
    story(
        Step(Dial("1001", "*314001")),
        Step(Rest()),
        Step(Fault("kill service", lasts=1500, at="QueuePause", answered=True), after=100),
        Step(Dial("1001", "*391", real=True), after=100),
    )


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_the_pause_lamp_of_who_is_paused_in_one_queue_of_several(story: Story, verb: str) -> None:
    """It must not depend on which queue was the last to change: lit, when the agent is paused."""
    story(
        Step(Dial("1001", "*314001")),
        *([Step(Dial("1001", "*331"), after=200)] if verb == "unpause" else []),
        Step(Console(verb, "4001", "sales", detail="lunch" if verb == "pause" else "", calm=True)),
    )


def test_a_pause_through_the_fallback_of_a_login_that_the_service_had_begun(story: Story) -> None:
    """Killed after Asterisk had put the agent in: the fallback sees a member, pauses it and says
    so. In doubt the phone does not ring: the login is taken back, and the pause with it."""
    story(
        Step(Fault("kill service", lasts=1500, at="QueueAdd", answered=True)),
        Step(Dial("1002", "*314009"), after=50),
        Step(Dial("1002", "*331", real=True), after=300),
    )


def test_a_pause_that_the_service_began_and_the_fallback_ended(story: Story) -> None:
    """Asterisk had paused the agent, nobody had confirmed it; the fallback saw the pause, ended it
    and said so. The pause was taken back, and the end of no pause was no event."""
    story(
        Step(Dial("1003", "*314002")),
        Step(Rest()),
        Step(Fault("kill service", lasts=1500, at="QueuePause", answered=True), after=100),
        Step(Ask("Pause", "4002", detail="3"), after=50),
        Step(Dial("1003", "*392", real=True), after=400),
    )
