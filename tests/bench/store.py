"""What the store costs: logins through agent, begin and confirm, without Asterisk.

    python -m tests.bench.store [--url sqlite:///…] [--at-once 50] [--logins 5000] [--agents 1000]

Prints logins per second and the processor time of the whole process per login.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

from fastagi.agents.commands import Actor, LogIn, LogOff
from fastagi.agents.deciding import beginning, device_wanted
from fastagi.agents.devices import Device
from fastagi.contract import Source
from fastagi.store import PeeweeStore, open_store
from fastagi.store.connection import Connection


def fill(connection: Connection, agents: int) -> None:
    connection.forget()
    execute = connection.execute
    for n in range(3):
        execute(
            "INSERT INTO queues (number, name, origin) VALUES (?, ?, 'api')", (f"70{n}", f"q{n}")
        )
    for n in range(agents):
        execute(
            "INSERT INTO agents (number, name, language, origin) VALUES (?, ?, 'en', 'api')",
            (str(10000 + n), f"Agent {n}"),
        )
    execute(
        "INSERT INTO memberships (agent_id, queue_id, penalty, joined)"
        " SELECT a.id, q.id, 0, ? FROM agents a CROSS JOIN queues q",
        (False,),
    )


async def log_in(store: PeeweeStore, n: int, id: str) -> None:
    number = str(10000 + n)
    state = await store.agent(number)
    assert state is not None
    device = Device(str(n), "phones", f"PJSIP/{n}", f"PJSIP/{n}")
    actor = Actor(channel=f"PJSIP/{n}-0000{id}", caller_id=str(n), unique_id=f"17000.{id}")
    command = LogIn(id=id, agent=number, source=Source.PHONE, actor=actor, device=device)
    change = await store.begin(
        command.agent, beginning(command, datetime.now(UTC)), device_wanted(command)
    )
    await store.confirm(change)


async def log_off(store: PeeweeStore, n: int, id: str) -> None:
    command = LogOff(id=id, agent=str(10000 + n), source=Source.PHONE)
    await store.confirm(
        await store.begin(
            command.agent, beginning(command, datetime.now(UTC)), device_wanted(command)
        )
    )


async def drive(store: PeeweeStore, jobs: Iterator[int], ids: "count[int]", off: bool) -> None:
    for n in jobs:
        await (log_off if off else log_in)(store, n, f"{next(ids):08d}-bench")


async def measure(url: str, at_once: int, logins: int, agents: int) -> None:
    store = await asyncio.to_thread(open_store, url)
    await store.run(lambda connection: fill(connection, agents))
    ids = count()
    done, wall, cpu, commits = 0, 0.0, 0.0, 0
    while done < logins:
        jobs = iter(range(agents))
        before = time.perf_counter(), time.process_time(), store.workers.commits
        await asyncio.gather(*(drive(store, jobs, ids, False) for _ in range(at_once)))
        wall += time.perf_counter() - before[0]
        cpu += time.process_time() - before[1]
        commits += store.workers.commits - before[2]
        done += agents
        jobs = iter(range(agents))
        await asyncio.gather(*(drive(store, jobs, ids, True) for _ in range(at_once)))
    print(
        f"{at_once} at once: {done / wall:,.0f} logins/s, {cpu / done * 1e6:.0f} µs of processor"
        f" time per login, {3 * done / commits:.1f} calls per commit"
    )
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 50, 500])
    parser.add_argument("--logins", type=int, default=5000)
    parser.add_argument("--agents", type=int, default=1000)
    options = parser.parse_args()
    for at_once in options.at_once:
        with tempfile.TemporaryDirectory() as folder:
            url = options.url or f"sqlite:///{folder}/bench.db"
            asyncio.run(measure(url, at_once, options.logins, options.agents))


if __name__ == "__main__":
    main()
