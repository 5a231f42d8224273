"""schemathesis over all faces, as their own OpenAPI tells of them: every operation with what it
announces and with what it does not, by itself and after others; every answer as announced.

The service in memory, over real HTTP. More examples: ``SCHEMA_EXAMPLES=500``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.agents.memory import an_agent
from tests.page.parts import Office

TOKEN = "a-token-that-nobody-would-guess"
EXAMPLES = os.environ.get("SCHEMA_EXAMPLES", "10")  # of every operation
# It never ends; its own tests are those of the stream.
ENDLESS = "/events"

# What the documents answer with 400 and 422 though nothing is wrong with the request: it does not
# fit what is there.
UNFIT = (
    "Two different tokens",  # each by itself is announced
    "Not logged",
    "No such agent",  # of members
    "No such extension",
    "No such pause reason",
    "No such queue",
    "Agent already in queue",
    "Agent not in queue",
    "Agent is not logged",
    "Agent is unpaused",
    "Agent already paused",
    "Agente não foi criado, esse login já está sendo usado.",
    "the agent is not in the queue with the id",
    "has two priorities",
    "there is no queue with the id",
    "name must not contain control characters",  # all of Unicode's: no pattern says that
)

# The format that hooks' URLs are announced with; and what "accepted" means.
HOOKS = f"""
import schemathesis
from hypothesis import strategies as st

schemathesis.openapi.format(
    "http-url",
    st.builds(
        "https://{{}}.example/{{}}".format,
        st.from_regex(r"\\A[a-z]{{1,10}}\\Z"),
        st.from_regex(r"\\A[a-z]{{0,20}}\\Z"),
    ),
)


@schemathesis.hook
def filter_case(ctx, case):
    # Such bodies are taken for none, as clients of those systems send them.
    return case.body is not None and case.body != []


@schemathesis.check
def nothing_wrong_with_what_is_as_announced(ctx, response, case):
    as_announced = case.meta is not None and case.meta.generation.mode.is_positive
    if case.operation.path == "/api/agent.php":
        return  # which arguments go with which command is more than OpenAPI says
    if as_announced and response.status_code in (400, 422):
        text = response.content.decode()
        assert any(known in text for known in {UNFIT!r}), text
"""

# Half of the requests are about somebody who is there, else most would be told "No such agent".
SETTINGS = """
[dictionaries]
ids = { values = [1001, 1002] }
numbers = { values = ["1001", "1002"] }
hooks = { values = [150, 151, 152] }
extensions = { values = ["1001", "1005", "0123456789"] }

[parameters]
"path.agent_id" = { dictionary = "ids", probability = 0.5 }
"path.agent_number" = { dictionary = "numbers", probability = 0.5 }
"path.client_id" = { dictionary = "numbers", probability = 0.5 }
"path.event_id" = { dictionary = "hooks", probability = 0.5 }
"body.agent_id" = { dictionary = "ids", probability = 0.5 }
"body.extension" = { dictionary = "extensions", probability = 0.5 }

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "403", "404", "409", "422", "503"]
"""


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    made = Office(
        an_agent("1001"),
        an_agent("1002", "sales"),
        # Many wrong tokens are shown: that an address is locked out has tests of its own.
        tokens={"schemathesis": {"token": TOKEN, "rights": ["read", "control", "configure"]}},
        agent_php={"token": TOKEN},
        lockout={"failures": 1000, "within": "1s", "for": "1s"},
    )
    yield made
    made.end()


@pytest.fixture(scope="module")
def document(office: Office) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{office.url}openapi.json", timeout=60).json()
    return found


def test_every_answer_is_as_announced(
    office: Office, document: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{office.url}openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--exclude-path", ENDLESS),
            *("--max-examples", EXAMPLES),
            *("--seed", "1"),
            *("--generation-database", "none"),
            "--continue-on-failure",
            "--no-color",
        ],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stderr
    operations = sum(len(methods) for path, methods in document["paths"].items() if path != ENDLESS)
    tested = re.search(r"Operations: +(\d+) selected / (\d+) total", run.stdout)
    assert tested is not None
    assert int(tested[1]) == operations
