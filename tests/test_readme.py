"""What the README says is what the code does; `python -m tests.test_readme` writes its table."""

import re
from pathlib import Path

import typer

from fastagi.agi.prompts import ANSWERS
from fastagi.ami.queues import NEEDED
from fastagi.cli import app
from fastagi.config.settings import Settings
from fastagi.contract import EventType, Outcome, Variable
from fastagi.dial import TRANSCRIPTS

README = Path(__file__).parents[1] / "README.md"
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
    text = README.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


def test_every_command_is_told() -> None:
    text = README.read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    assert set(re.findall(r"^\| `fastagi ([a-z]+)", text, re.MULTILINE)) == set(group.commands)  # type: ignore[attr-defined]


def test_names_others_see_are_told() -> None:
    text = README.read_text(encoding="utf-8")
    for name in (*Variable, *EventType, *NEEDED):
        assert f"`{name}`" in text or f"`{name} " in text or f"{name}," in text, name


def test_every_setting_is_in_the_sample() -> None:
    sample = "".join(
        path.read_text(encoding="utf-8") for path in (README.parent / "config").glob("*.yml")
    )
    for field, info in Settings.model_fields.items():
        name = info.alias or field
        assert re.search(rf"^(# )?{name}:", sample, re.MULTILINE), name


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
