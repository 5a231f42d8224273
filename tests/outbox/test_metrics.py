"""Figures: counted as things happen, asked of the store when somebody looks."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastagi import contract
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import Outcome, Script, Sink
from fastagi.outbox import metrics as module
from fastagi.outbox.metrics import Metrics

Figures = dict[str, dict[tuple[tuple[str, str], ...], float]]


def read(text: bytes) -> Figures:
    """As Prometheus reads it: sample name -> labels -> value. No series may be there twice."""
    found: Figures = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            of = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in of, f"{sample.name}{labels} is there twice"
            of[labels] = sample.value
    return found


async def figures(metrics: Metrics) -> Figures:
    text, content_type = await metrics.text()
    assert content_type.startswith("text/plain; version=")
    return read(text)


def by(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


@dataclass(frozen=True)
class Owed:
    sink: str
    waiting: int
    oldest: datetime | None
    parked: int


async def test_calls() -> None:
    metrics = Metrics()
    metrics.called(Script.LOGIN, Outcome.LOGGED_IN, 0.003)
    metrics.called("agent/login", "LOGGED_IN", 2.0)
    metrics.called("agent/login", "WRONG_PIN", 70.0)
    metrics.called("agent/pause", "", 1.0)  # hung up before anything was decided
    metrics.called("busy", "BUSY", 1.0)
    found = await figures(metrics)
    assert found["fastagi_calls_total"] == {
        by(script="agent/login", outcome="LOGGED_IN"): 2,
        by(script="agent/login", outcome="WRONG_PIN"): 1,
        by(script="agent/pause", outcome="NONE"): 1,
        by(script="busy", outcome="BUSY"): 1,
    }
    seconds = found["fastagi_call_seconds_bucket"]
    assert seconds[by(script="agent/login", le="0.005")] == 1
    assert seconds[by(script="agent/login", le="2.5")] == 2
    assert seconds[by(script="agent/login", le="60.0")] == 2
    assert seconds[by(script="agent/login", le="+Inf")] == 3
    assert found["fastagi_call_seconds_sum"][by(script="agent/login")] == pytest.approx(72.003)


async def test_manager_actions() -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.004, 0.3, 11.0):
        metrics.acted("paris", seconds)
    metrics.acted("", 0.004)
    found = await figures(metrics)
    buckets = found["fastagi_ami_action_seconds_bucket"]
    so_far = {
        dict(labels)["le"]: n for labels, n in buckets.items() if by(asterisk="paris")[0] in labels
    }
    assert (so_far["0.0005"], so_far["0.005"], so_far["10.0"], so_far["+Inf"]) == (1, 2, 3, 4)
    assert found["fastagi_ami_action_seconds_count"] == {
        by(asterisk="paris"): 4,
        by(asterisk=""): 1,
    }


async def test_requests_hooks_listeners_and_repairs() -> None:
    metrics = Metrics()
    for face, status in [("agentd", 200), ("agentd", 200), ("agentd", 404), ("health", 503)]:
        metrics.requested(face, status)
    for outcome in ("delivered", "delivered", "failed", "parked"):
        metrics.hooked(outcome)
    metrics.listeners(3)
    metrics.listeners(2)
    metrics.repaired("", "put back", 2)
    found = await figures(metrics)
    assert found["fastagi_http_requests_total"] == {
        by(face="agentd", status="200"): 2,
        by(face="agentd", status="404"): 1,
        by(face="health", status="503"): 1,
    }
    assert found["fastagi_hook_deliveries_total"] == {
        by(outcome="delivered"): 2,
        by(outcome="failed"): 1,
        by(outcome="parked"): 1,
    }
    assert found["fastagi_event_listeners"] == {(): 2}
    assert found["fastagi_repairs_total"] == {by(asterisk="", kind="put_back"): 2}


async def test_no_caller_can_make_series_without_end() -> None:
    metrics = Metrics()
    for n in range(300):
        metrics.called(f"agent/{n}", f"OUTCOME_{n}", 0.1)
        metrics.called("agent/login", f"OUTCOME_{n}", 0.1)
        metrics.requested(f"/{n}", n * 100)
        metrics.hooked(str(n))
    found = await figures(metrics)
    assert found["fastagi_calls_total"] == {
        by(script="other", outcome="other"): 300,
        by(script="agent/login", outcome="other"): 300,
    }
    assert len(found["fastagi_http_requests_total"]) == 6  # 100 to 500, and other
    assert found["fastagi_hook_deliveries_total"][by(outcome="other")] == 300


async def test_what_the_store_knows() -> None:
    oldest = datetime.now(UTC) - timedelta(seconds=90)
    metrics = Metrics(
        agents_by_state=lambda: {
            ("paris", "available"): 7,
            ("lyon", "available"): 4,
            ("paris", "paused"): 2,
            ("lyon", "paused"): 1,
            (None, "logged_off"): 3,
        },
        backlog=lambda: [
            Owed("lamp", 3, oldest, 1),
            Owed("hook", 0, None, 4),
            Owed("a new one", 1, None, 0),
            Owed("another", 2, None, 0),
        ],
        connected=lambda: {"paris": True, "lyon": False},
        known=lambda asterisk: asterisk != "lyon",
    )
    found = await figures(metrics)
    assert found["fastagi_agents"] == {
        by(state="logged_off"): 3,
        by(state="available"): 7,
        by(state="paused"): 2,
        by(state="unknown"): 5,
    }
    waiting = {dict(labels)["sink"]: n for labels, n in found["fastagi_outbox_deliveries"].items()}
    assert waiting == {"lamp": 3, "hook": 0, "queue_log": 0, "user_event": 0, "other": 3}
    assert found["fastagi_outbox_oldest_seconds"][by(sink="lamp")] >= 90
    assert found["fastagi_outbox_oldest_seconds"][by(sink="hook")] == 0
    assert found["fastagi_outbox_parked"][by(sink="hook")] == 4
    assert found["fastagi_ami_connected"] == {by(asterisk="paris"): 1, by(asterisk="lyon"): 0}


async def test_every_name_of_the_contract_is_there_and_no_other() -> None:
    metrics = Metrics(agents_by_state=dict, backlog=list, connected=lambda: {"": True})
    metrics.called("agent/login", "LOGGED_IN", 0.1)
    text, _ = await metrics.text()
    names = {family.name for family in text_string_to_metric_families(text.decode())}
    assert names == {value for name, value in vars(contract).items() if name.startswith("METRIC_")}
    assert b"_created" not in text


async def test_labels_are_the_contracts() -> None:
    assert {script.value for script in Script} < module.SCRIPTS
    assert {outcome.value for outcome in Outcome} < module.OUTCOMES
    assert {sink.value for sink in Sink} < module.SINKS


async def test_the_store_is_not_asked_at_every_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def agents() -> dict[tuple[str | None, str], int]:
        asked.append("agents")
        return {("", "available"): len(asked)}

    metrics = Metrics(agents_by_state=agents)
    assert asked == []  # not at the start either
    for _ in range(5):
        assert (await figures(metrics))["fastagi_agents"][by(state="available")] == 1
    assert asked == ["agents"]
    monkeypatch.setattr(module, "KEPT", 0.0)
    metrics = Metrics(agents_by_state=agents)
    await figures(metrics)
    before = len(asked)
    await figures(metrics)
    assert len(asked) > before


async def test_a_store_that_is_away_costs_only_its_figures() -> None:
    def broken() -> dict[tuple[str | None, str], int]:
        raise StoreUnavailable("/var/lib/fastagi/fastagi.db: disk I/O error")

    metrics = Metrics(agents_by_state=broken, backlog=list, connected=lambda: {"": False})
    metrics.called("agent/login", "UNAVAILABLE", 0.1)
    found = await figures(metrics)
    assert "fastagi_agents" not in found
    assert found["fastagi_outbox_deliveries"]
    assert found["fastagi_calls_total"]
    assert found["fastagi_ami_connected"] == {by(asterisk=""): 0}


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Whoever waits for it is stuck until the test is over."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_store_that_is_stuck_holds_up_one_thread(
    stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    asked: list[str] = []

    def agents() -> dict[tuple[str | None, str], int]:
        asked.append("agents")
        stuck.wait(30)
        return {("", "available"): 1}

    metrics = Metrics(agents_by_state=agents)
    metrics.listeners(4)
    for _ in range(3):
        found = await figures(metrics)
        assert found["fastagi_event_listeners"] == {(): 4}
        assert "fastagi_agents" not in found
    assert asked == ["agents"]
