"""What Asterisk says may be odd, far too much, or very slow: the service goes on, and says so."""

import asyncio
import json
import signal
import time
from typing import Any

import httpx2
import pytest

from fastagi.agi.features import Outcome
from tests.ami.peer import Link
from tests.ami.peer import Peer as Scripted
from tests.ami.test_queues import end, item
from tests.ami.throttle import SlowLine
from tests.journey.parts import Peer, Service, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyst2's use of threading

FAULT, UNUSABLE = "skipped: a fault of the service", "skipped: it cannot be used"


# -- odd


class Odd:
    """A manager interface that answers as ``how`` says, and as an empty Asterisk when it is ""."""

    def __init__(self) -> None:
        self.how = ""
        self.lists = self.asked = 0
        self.restarts = 0

    async def script(self, link: Link, action: dict[str, str]) -> None:
        id, name = action["ActionID"], action["Action"]
        if name == "CoreStatus" and self.how == "may not be asked":
            self.asked += 1
            link.reply(action, "Permission denied", response="Error")
        elif name == "CoreStatus":
            link.write(
                f"Response: Success\r\nActionID: {id}\r\nCoreStartupDate: 2026-11-22\r\n"
                f"CoreStartupTime: 18:14:{self.restarts:02d}\r\n\r\n".encode()
            )
        elif name == "Getvar":
            life = "Variable: X\r\nValue: 0123abcd\r\n\r\n"
            link.write(f"Response: Success\r\nActionID: {id}\r\n{life}".encode())
        elif name in ("QueueStatus", "DBGetTree"):
            self.lists += 1
            await self._list(link, action)
        else:
            link.reply(action)

    async def _list(self, link: Link, action: dict[str, str]) -> None:
        done = (
            end(action)
            if action["Action"] == "QueueStatus"
            else f"Event: DBGetTreeComplete\r\nActionID: {action['ActionID']}\r\n\r\n".encode()
        )
        members = action["Action"] == "QueueStatus"
        queue = action.get("Queue", "sales")
        if self.how == "no response":
            link.write(done)
            return
        link.reply(action)
        if self.how == "an error in the middle":
            link.reply(action, "it went wrong", response="Error")
            return
        if self.how == "a penalty beyond 64 bits" and members:
            link.write(item(action, Queue=queue, Penalty="99999999999999999999"))
        elif self.how == "a penalty beyond 32 bits" and members:
            link.write(item(action, Queue=queue, Penalty="3000000000"))
        elif self.how == "NUL in names" and members:
            link.write(
                item(action, Queue=queue, Name="Agent/4001\0", PausedReason="\0", Paused="1")
            )
            link.write(item(action, Queue=queue, Location="PJSIP/\0"))
        elif self.how == "no end" and members:
            while not link.writer.transport.is_closing():
                link.write(item(action, Queue=queue) * 100)
                await link.writer.drain()
                await asyncio.sleep(0)
            return
        elif self.how == "odd notes" and not members:
            for n, value in enumerate(
                (r'{"s":"agent/pause","i":"PJSIP/\ud800"}', "[" * 9_000, "x")
            ):
                link.event(
                    "DBGetTreeResponse",
                    Key=f"/fastagi/179500000000{n}-1.1",
                    Val=value,
                    ActionID=action["ActionID"],
                )
        link.write(done)


HOW = (
    "no response",
    "an error in the middle",
    "a penalty beyond 64 bits",
    "a penalty beyond 32 bits",
    "NUL in names",
    "odd notes",
    "no end",
)


@pytest.fixture
def alone(make_service: Any, tmp_path: Any) -> Any:
    """A service at the scripted manager interface: ``alone(peer)``."""

    async def make(peer: Scripted) -> Service:
        service: Service = await asyncio.to_thread(
            make_service, wire=peer, http={}, asterisk={"secret": peer.secret}
        )
        return service

    return make


async def ready(service: Service) -> tuple[int, Any]:
    async with httpx2.AsyncClient(timeout=60) as http:
        answer = await http.get(f"http://127.0.0.1:{service.http_port}/health/ready")
    return answer.status_code, answer.json()


async def test_no_odd_answer_ends_the_service(alone: Any) -> None:
    odd = Odd()
    async with Scripted(odd.script) as peer:
        service = await alone(peer)
        for how in HOW:
            before = odd.lists + (0 if how == "no end" else 3)
            odd.how = how
            odd.restarts += 1
            peer.links[-1].cut()
            await peer.until(lambda before=before: odd.lists > before)
            assert service.process is not None
            assert service.process.poll() is None, how
            odd.how = ""
            peer.links[-1].cut()
            async with asyncio.timeout(60):
                while (await ready(service))[0] != 200:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
        async with httpx2.AsyncClient(timeout=60) as http:
            figures = (await http.get(f"http://127.0.0.1:{service.http_port}/metrics")).text
        assert 'fastagi_faults_total{task="read queue members"}' in figures
        assert service.logged(FAULT) == []
        assert len(service.logged(UNUSABLE)) <= 5
        assert len(service.logged("fallback note cannot be read, it is deleted")) >= 3
        assert service.stop() == 0


async def test_what_asterisk_refuses_at_each_attempt_is_said_once(alone: Any) -> None:
    """As without the class reporting, or while app_queue is not loaded."""
    odd = Odd()
    async with Scripted(odd.script) as peer:
        service = await alone(peer)
        odd.how = "may not be asked"
        peer.links[-1].cut()
        await peer.until(lambda: odd.asked >= 5)
        said = [entry["error"] for entry in service.logged("not everything could be compared yet")]
        assert said.count("CoreStatus: Permission denied") == 1
        odd.how = ""
        await until(lambda: service.logged("all is compared"))


# -- poisoned


async def test_notes_that_cannot_be_stored_keep_no_service_from_starting(
    make_service: Any, desk: Any, asterisk: Any
) -> None:
    service = make_service()
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == Outcome.LOGGED_IN
    service.signal(signal.SIGTERM)
    assert service.process.wait(40) == 0
    service.process = None
    now = int(time.time() * 1000)
    poison = (
        r'{"s":"agent/pause","i":"PJSIP/\ud800","r":"1"}',
        r'{"s":"agent/pause","i":"PJSIP/1001","r":"1","c":"\ud800"}',
        r'{"s":"agent/pause","i":"PJSIP/1001","r":"1","n":"\udcff"}',
    )
    sound = json.dumps({"s": "agent/pause", "i": "PJSIP/1001", "r": "1"}, separators=(",", ":"))
    asterisk.cli("queue pause member PJSIP/1001 reason lunch")
    async with Peer(asterisk) as peer:
        for n, value in enumerate((*poison, sound)):
            await peer.put("fastagi", f"{now + n}-{n}.1", value)
    assert "4 results" in asterisk.cli("database show fastagi")
    service.start()
    await until(lambda: "0 results" in asterisk.cli("database show fastagi"))
    told = service.logged("fallback note cannot be read, it is deleted")
    assert [entry["key"] for entry in told] == [f"{now + n}-{n}.1" for n in range(3)]
    (paused,) = service.events("agent-pause")
    assert (paused["agent"], paused["reason"], paused["source"]) == ("4001", "lunch", "phone")
    assert service.logged(FAULT) == []


# -- slow


def crowded(queues: dict[str, int]) -> str:
    """Sections of queues.conf with so many static members each."""
    return "".join(
        f"[{queue}]\n"
        + "".join(f"member => Local/{n}@nowhere,0,Member {n}\n" for n in range(count))
        for queue, count in queues.items()
    )


@pytest.mark.parametrize("whose", ["others", "ours"])
async def test_four_thousand_members_behind_two_megabits(
    whose: str, make_service: Any, desk: Any, asterisk: Any
) -> None:
    """An answer with all of them takes more than the five seconds that an action may take."""
    ours = 0 if whose == "others" else 1_333
    queues = dict.fromkeys(("sales", "support", "billing"), ours)
    if whose == "others":
        queues |= {f"foreign-{n}": 100 for n in range(40)}
    asterisk.queue_sections = crowded(queues)
    asterisk.reload("queues")
    with SlowLine(asterisk.ami_port, 250_000) as line:
        service = make_service(wire=line)
        phone = await desk("1001")
        assert (await phone.dial("*314001")).outcome == Outcome.LOGGED_IN
        # Asterisk restarts: all is compared and put back, and a code is answered meanwhile.
        asterisk.kill()
        asterisk.start()
        await until(lambda: len(service.logged("connected to Asterisk's manager interface")) == 2)
        other = await desk("1003")
        assert (await other.dial("*314002")).outcome == Outcome.LOGGED_IN
        await until(lambda: {"PJSIP/1001", "PJSIP/1003"} <= service.members()["sales"], within=60)
        await until(lambda: service.logged("Asterisk was brought in line with the store"))
        assert (await phone.dial("*331")).outcome == Outcome.PAUSED
        print(f"{line.carried} bytes over the line")
    lost = [entry["reason"] for entry in service.logged("manager link lost")]
    assert set(lost) <= {"connection closed by Asterisk"}, "it was killed, and nothing else"
