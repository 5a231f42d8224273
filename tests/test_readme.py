"""The tables of the documents have what the code has; `python -m tests.test_readme` writes the one
of the outcomes."""

import re
from pathlib import Path

import typer

from fastagi import contract
from fastagi.agi.prompts import ANSWERS
from fastagi.ami.queues import NEEDED
from fastagi.cli import app
from fastagi.config.settings import FeatureCodes
from fastagi.contract import EventType, HookField, Outcome, Variable
from fastagi.dial import TRANSCRIPTS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ASTERISK = ROOT / "dialplan" / "README.md"
INTERFACES = ROOT / "fastagi" / "api" / "README.md"
BEGIN, END = "<!-- outcomes -->\n", "<!-- /outcomes -->"
SPOKEN = {
    Outcome.STATUS_TOLD: "extension, agent logged in, the queues' numbers (of more than four how "
    "many they are), “paused” after one that is paused alone; “no pause”, or “paused”, the "
    "reason's code and the minutes"
}


def heard(outcome: Outcome) -> str:
    if outcome in SPOKEN:
        return SPOKEN[outcome]
    return " ".join(
        f"*{sound[1:-1]}*" if sound.startswith("{") else TRANSCRIPTS[sound].strip()
        for sound in ANSWERS[outcome]
    )


def table() -> str:
    return (
        "\n| outcome (`AGENT_STATUS`) | heard |\n|---|---|\n"
        + "".join(f"| `{outcome.value}` | {heard(outcome)} |\n" for outcome in Outcome)
        + "\n"
    )


def test_every_outcome_is_told() -> None:
    text = ASTERISK.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


def test_every_command_is_told() -> None:
    text = README.read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    assert set(re.findall(r"^\| `fastagi ([a-z]+)", text, re.MULTILINE)) == set(group.commands)  # type: ignore[attr-defined]


def test_every_code_is_told() -> None:
    rows = re.findall(r"^\| `([*0-9]+)` \| `(\w+)` \|", README.read_text("utf-8"), re.MULTILINE)
    codes = {name: info.default for name, info in FeatureCodes.model_fields.items()}
    assert {name: code for code, name in rows} == codes


def test_names_others_see_are_told() -> None:
    metrics = [name for key, name in vars(contract).items() if key.startswith("METRIC_")]
    for document, names in (
        (ASTERISK, (*Variable, *NEEDED)),
        (INTERFACES, (*EventType, *HookField, *metrics)),
    ):
        text = document.read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf"`{name}(_total)?[` ]", text), name


if __name__ == "__main__":
    text = ASTERISK.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    ASTERISK.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
