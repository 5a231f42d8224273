"""Who dials a code: at a phone, over a trunk, through a Local channel, from an IVR."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from fastagi.demo.phone import CallRefused
from tests.journey.parts import Desk, Service, sample, until

PIN = "4321"
MOBILE = "0712345678"

# The phone 1006 stands for a trunk: no device rule matches it. 8 in front of a code makes a call
# from outside of it, with a mobile's number; 9 the same, but by Goto into the phones' context, as
# an IVR with Read() does; 79<code> and 78<code> dial it through one Local channel, and through two.
INBOUND = f"""
[from-trunk]
include => phones
[phones](+)
exten => _8*X.,1,Set(CALLERID(num)={MOBILE})
 same => n,Goto(from-trunk,${{EXTEN:1}},1)
exten => _9*X.,1,Set(CALLERID(num)=1001)
 same => n,Goto(phones,${{EXTEN:1}},1)
exten => _79*X.,1,Dial(Local/${{EXTEN:2}}@phones)
exten => _78*X.,1,Dial(Local/79${{EXTEN:2}}@phones/n)
[outbound](+)
exten => _0X.,1,Wait(60)
"""
RULES = [
    {"match": "100[1-5]", "context": "office", "interface": "PJSIP/{extension}"},
    {"match": "0X.", "type": "remote", "interface": "Local/{extension}@outbound/n"},
]


@pytest.fixture
def inbound(make_service: Any, asterisk: Asterisk) -> Iterator[Callable[..., Service]]:
    """``inbound(**login)``: 4003 with a PIN and a mobile, 4001 without."""
    before = asterisk.more_dialplan
    asterisk.more_dialplan += INBOUND

    def make(**login: Any) -> Service:
        agents = sample()["agents"]
        agents[2] |= {"pin": PIN, "outside": [MOBILE]}
        service: Service = make_service(agents=agents, devices=RULES, login=login)
        return service

    yield make
    asterisk.more_dialplan = before
    asterisk.reload("dialplan")


class Calls:
    """Calls to codes that go another way than straight from a phone."""

    def __init__(self, asterisk: Asterisk) -> None:
        self.asterisk = asterisk

    async def dial(self, desk: Desk, number: str, *steps: tuple[str, str]) -> tuple[str, str, str]:
        """Outcome, agent and extension, as the dialplan is told them."""
        mark = self.asterisk.mark()
        found: list[str] = []

        def came() -> bool:
            text = self.asterisk.log_since(mark)
            found[:] = re.findall(r'NoOp\("[^"]*", "result=([^"]*)"\)', text)
            return bool(found)

        call = asyncio.create_task(self._call(desk, number))
        heard = 0
        for sound, keys in steps:

            def plays(sound: str = sound, heard: int = heard) -> bool:
                return sound in self.asterisk.played(since=mark)[heard:]

            await until(plays, what=sound)
            heard = self.asterisk.played(since=mark).index(sound, heard) + 1
            await desk.phone.press(keys)
        await until(came, what=f"the end of {number}")
        await call
        _script, outcome, agent, extension, _reason = found[-1].split("|")
        return outcome, agent, extension

    async def _call(self, desk: Desk, number: str) -> None:
        with contextlib.suppress(CallRefused):  # the code ended the call before it was answered
            call = await desk.phone.dial(number)
            await call.closed.wait()


@pytest.fixture
def calls(asterisk: Asterisk) -> Calls:
    return Calls(asterisk)


# -- the "#"


async def test_every_code_with_a_hash_is_the_code(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    for code, outcome in (
        ("*314001#", "LOGGED_IN"),
        ("*331#", "PAUSED"),
        ("*35#", "STATUS_TOLD"),
        ("*34#", "UNPAUSED"),
        ("*391#", "PAUSED"),
        ("*39#", "UNPAUSED"),
        ("*32#", "LOGGED_OFF"),
        ("*304001#", "LOGGED_IN"),
        ("*30#", "LOGGED_OFF"),
    ):
        assert (code, (await phone.dial(code)).outcome) == (code, outcome)
    heard = await phone.dial("*31#", ("agent-user", "4001#"))
    assert heard.outcome == "LOGGED_IN"
    service.agrees()


async def test_a_hash_after_an_answer_answers_no_other_question(
    service: Service, desk: Any
) -> None:
    """The "#" that login wants after a number is pressed after the queue's, too."""
    phone = await desk("1001")
    await phone.dial("*314001")
    conversation = await phone.lift("*36")
    await (await conversation.hears("spy-agent")).press("701#")
    await (await conversation.hears("agent-loggedoff")).press("1#")
    heard = await conversation.end()
    assert (heard.outcome, heard.sounds[-4:]) == (
        "QUEUE_LEFT",
        ["agent-loggedoff", "digits/7", "digits/0", "digits/1"],
    )
    assert service.members()["sales"] == set()
    # A "#" where nothing was asked before is an answer: none.
    await phone.dial("*36701")
    conversation = await phone.lift("*36701")
    await (await conversation.hears("agent-loggedoff")).press("##")
    assert (await conversation.end()).outcome == "LAST_IN_QUEUE"


# -- over a trunk


async def test_a_caller_over_a_trunk_may_not(
    inbound: Callable[..., Service], desk: Any, calls: Calls
) -> None:
    service = inbound()
    trunk, phone = await desk("1006"), await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    for way in ("8", "9"):
        for code in ("*314002*1003", "*324001", "*331", "*34", "*35", "*36701", "*304001", "*39"):
            came = await calls.dial(trunk, way + code)
            assert (way, code, came[0]) == (way, code, "NOT_FROM_HERE")
    came = await calls.dial(trunk, "79*324001")  # a Local channel hides nobody
    assert came[0] == "NOT_FROM_HERE"
    assert service.agents()["4001"]["status"] == "available"
    why = {line["why"] for line in service.logged("refused")}
    assert any("PJSIP/1006 or from-trunk in login.from" in line for line in why), why


@pytest.mark.parametrize("listed", ["PJSIP/1006", "PJSIP/_100X", "from-trunk"])
async def test_an_agent_at_home_can_do_everything(
    inbound: Callable[..., Service], desk: Any, calls: Calls, listed: str
) -> None:
    service = inbound(**{"from": [listed]})
    trunk = await desk("1006")
    pin = ("agent-pass", PIN + "#")
    who = ("4003", MOBILE)
    assert await calls.dial(trunk, "8*314003", pin) == ("LOGGED_IN", *who)
    member = f"Local/{MOBILE}@outbound/n"
    assert service.members()["support"] == {member}
    # by the caller ID
    assert await calls.dial(trunk, "8*331") == ("PAUSED", *who)
    assert service.members()["support"] == {f"{member} paused:lunch"}
    assert await calls.dial(trunk, "8*35") == ("STATUS_TOLD", *who)
    assert await calls.dial(trunk, "8*34#") == ("UNPAUSED", *who)
    assert await calls.dial(trunk, "8*36703", ("agent-loggedoff", "1")) == ("QUEUE_LEFT", *who)
    assert await calls.dial(trunk, "8*32") == ("LOGGED_OFF", *who)
    # one key for both
    assert await calls.dial(trunk, "8*304003", pin) == ("LOGGED_IN", *who)
    assert await calls.dial(trunk, "8*30") == ("LOGGED_OFF", *who)
    service.agrees()


async def test_an_agent_at_another_phone_outside_is_asked_for_number_and_pin(
    inbound: Callable[..., Service], desk: Any, calls: Calls
) -> None:
    service = inbound(**{"from": ["PJSIP/1006"]})
    trunk = await desk("1006")  # its number is 1006, which is nobody's
    asked = (("agent-user", "4003#"), ("agent-pass", PIN + "#"))
    number = f"*314003*{MOBILE}"
    assert (await trunk.dial(number, asked[1])).outcome == "LOGGED_IN"
    for code, outcome in (("*331", "PAUSED"), ("*35", "STATUS_TOLD"), ("*34", "UNPAUSED")):
        heard = await trunk.dial(code, *asked)
        assert (code, heard.outcome, heard.agent) == (code, outcome, "4003")
    # the wrong PIN acts for nobody
    wrong = (asked[0], ("agent-pass", "1#"), ("auth-incorrect", "2#"), ("auth-incorrect", "3#"))
    assert (await trunk.dial("*331", *wrong)).outcome == "WRONG_PIN"
    # a number that says to be a phone of the house is none
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    conversation = calls.dial(trunk, "9*32", *asked)
    assert await conversation == ("LOGGED_OFF", "4003", MOBILE)
    assert service.agents()["4001"]["status"] == "available"


async def test_no_number_but_the_agents_own(inbound: Callable[..., Service], desk: Any) -> None:
    service = inbound()
    phone = await desk("1001")
    pin = ("agent-pass", PIN + "#")
    for code, steps in (
        ("*314003*0900123456", [pin]),
        (f"*314003*{MOBILE}9", [pin]),
        (f"*314001*{MOBILE}", []),  # without a PIN at no number at all
        ("*304003*0900123456", [pin]),
    ):
        heard = await phone.dial(code, *steps)
        assert (code, heard.outcome) == (code, "NUMBER_NOT_ALLOWED")
    assert (await phone.dial(f"*314003*{MOBILE}", pin)).outcome == "LOGGED_IN"
    assert service.members()["billing"] == {f"Local/{MOBILE}@outbound/n"}


# -- through a Local channel


async def test_a_code_through_a_local_channel_acts_for_the_phone_that_dialled(
    inbound: Callable[..., Service], desk: Any, calls: Calls
) -> None:
    service = inbound()
    phone, other = await desk("1001"), await desk("1003")
    assert (await other.dial("*314002")).outcome == "LOGGED_IN"
    who = ("4001", "1001")
    for number, outcome in (
        ("79*314001", "LOGGED_IN"),
        ("79*331", "PAUSED"),
        ("78*35", "STATUS_TOLD"),
        ("78*34", "UNPAUSED"),
        ("79*32", "LOGGED_OFF"),
    ):
        assert (number, await calls.dial(phone, number)) == (number, (outcome, *who))
    assert service.agents()["4002"]["status"] == "available"
    service.agrees()


async def test_a_code_that_is_consulted_in_a_call_acts_for_who_consults_it(
    inbound: Callable[..., Service], desk: Any, asterisk: Asterisk
) -> None:
    """An attended transfer by keys: 1003 calls, and 1001 pauses while the caller is on hold."""
    asterisk.more_dialplan += "[phones](+)\nexten => 795,1,Dial(PJSIP/1001,30,t)\n"
    features = asterisk.etc / "features.conf"
    before = features.read_text()
    service = inbound()
    features.write_text("[general]\n[featuremap]\natxfer => *2\n")
    asterisk.cli("module reload features")
    try:
        agent, caller = await desk("1001"), await desk("1003")
        assert (await agent.dial("*314001")).outcome == "LOGGED_IN"
        assert (await caller.dial("*314002")).outcome == "LOGGED_IN"
        call = await caller.phone.dial("795")
        await agent.phone.wait_answered()
        mark = asterisk.mark()
        await agent.phone.press("*2")
        await until(lambda: "pbx-transfer" in asterisk.played(since=mark), what="the transfer")
        await agent.phone.press("*331#")
        await until(lambda: service.agents()["4001"]["status"] == "paused", what="the pause")
        assert service.agents()["4002"]["status"] == "available"
        assert 'Gosub("Local/*331' in asterisk.log_since(mark)
        assert call.active
        await caller.phone.hangup()
    finally:
        features.write_text(before)
        asterisk.cli("module reload features")


@contextlib.contextmanager
def transfer_keys(asterisk: Asterisk) -> Iterator[None]:
    """*1 transfers without consulting; 795 is 1001, and whoever talks may transfer the other."""
    features = asterisk.etc / "features.conf"
    before = features.read_text()
    features.write_text("[general]\n[featuremap]\nblindxfer => *1\n")
    asterisk.cli("module reload features")
    try:
        yield
    finally:
        features.write_text(before)
        asterisk.cli("module reload features")


TALK = """[phones](+)
exten => 795,1,Answer()
 same => n,Dial(PJSIP/1001,30,tT)
exten => 796,1,Dial(PJSIP/forwards,30)
"""


async def test_who_is_transferred_to_a_code_has_dialled_nothing(
    inbound: Callable[..., Service], desk: Any, asterisk: Asterisk
) -> None:
    """A colleague, or whoever talks to an agent, could log the agent off by a transfer."""
    asterisk.more_dialplan += TALK
    service = inbound()
    agent, other = await desk("1001"), await desk("1003")
    assert (await agent.dial("*314001")).outcome == "LOGGED_IN"
    assert (await other.dial("*314002")).outcome == "LOGGED_IN"
    refused = 0
    with transfer_keys(asterisk):
        # who transfers, and with what: a key, or the telephone's own (REFER)
        for who, code in ((other, "*32"), (agent, "*331"), (agent, "79*32"), (other, "")):
            mark = asterisk.mark()
            await other.phone.dial("795")
            joined = "joined 'simple_bridge'"
            await until(
                lambda mark=mark, joined=joined: asterisk.log_since(mark).count(joined) == 2,
                what="the call",
            )
            if code:
                await who.phone.press("*1")
                await until(
                    lambda mark=mark: "pbx-transfer" in asterisk.played(since=mark), what="the tone"
                )
                await who.phone.press(code)
            else:
                await who.phone.transfer("*32")
            refused += 1
            await until(
                lambda number=refused: len(service.logged("refused")) == number,
                what=f"the refusal of {code or 'REFER'}",
            )
            asterisk.cli("channel request hangup all")
            await until(lambda: "0 active channels" in asterisk.cli("core show channels count"))
    assert {line["outcome"] for line in service.logged("refused")} == {"NOT_FROM_HERE"}
    why = [line["why"] for line in service.logged("refused")]
    assert "sent to the code by PJSIP/1003-" in why[0], why
    assert "sent to the code by PJSIP/1001-" in why[1], why
    for number in ("4001", "4002"):
        assert service.agents()[number]["status"] == "available"


class Forwards(asyncio.DatagramProtocol):
    """A telephone that sends all its calls on to a number (302)."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        text = data.decode()
        if not text.startswith("INVITE"):
            return
        told = {m[1]: m[2] for m in re.finditer(r"^([\w-]+): (.*?)\r$", text, re.MULTILINE)}
        lines = [f"{name}: {told[name]}" for name in ("Via", "From", "Call-ID", "CSeq")]
        lines += [f"To: {told['To']};tag=1", f"Contact: <sip:{self.number}@127.0.0.1>"]
        reply = ["SIP/2.0 302 Moved Temporarily", *lines, "Content-Length: 0", "", ""]
        self.transport.sendto("\r\n".join(reply).encode(), addr)


async def test_who_calls_a_phone_that_is_forwarded_to_a_code_has_not_dialled_it(
    inbound: Callable[..., Service],
    desk: Any,
    asterisk: Asterisk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Forwards("*32"), local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    plain = Asterisk._pjsip_conf
    endpoint = f"""
[forwards]
type = aor
contact = sip:forwards@127.0.0.1:{port}
[forwards]
type = endpoint
context = phones
allow = ulaw
aors = forwards
"""
    with monkeypatch.context() as patched:
        patched.setattr(Asterisk, "_pjsip_conf", lambda self: plain(self) + endpoint)
        asterisk.more_dialplan += TALK
        asterisk.kill()
        asterisk.start()
        service = inbound()
        try:
            phone = await desk("1001")
            assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
            phone.call("796")
            await until(lambda: service.logged("refused"), what="the refusal")
            (line,) = service.logged("refused")
            assert line["outcome"] == "NOT_FROM_HERE"
            assert "sent to the code by PJSIP/forwards-" in line["why"]
            assert service.agents()["4001"]["status"] == "available"
        finally:
            transport.close()
    asterisk.kill()
    asterisk.start()


async def test_an_endpoint_is_the_extension_of_the_rule_with_its_interface(
    make_service: Any, desk: Any
) -> None:
    rule = {"match": "201", "context": "office", "interface": "PJSIP/1001"}
    service: Service = make_service(devices=[rule])
    heard = await (await desk("1001")).dial("*314001")
    assert (heard.outcome, heard.extension) == ("LOGGED_IN", "201")
    assert service.members()["sales"] == {"PJSIP/1001"}


# -- never silence


async def test_who_waits_for_a_locked_store_is_told_to_wait(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    lock = sqlite3.connect(service.folder / "fastagi.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        conversation = await phone.lift("*331")
        await conversation.hears("queue-thankyou")
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    heard = await conversation.end()
    assert (heard.outcome, heard.sounds[-2:]) == ("PAUSED", ["dictate/paused", "digits/1"])
    assert heard.sounds.count("queue-thankyou") == 1
    assert service.members()["sales"] == {"PJSIP/1001 paused:lunch"}
    # not where the answer comes at once
    assert "queue-thankyou" not in (await phone.dial("*34")).sounds
