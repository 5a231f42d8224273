"""`fastagi reload`: the service reads its configuration again, and says what has changed."""

import json

import pytest

from .conftest import PIN, SECRET, Result, Serve, Setting


def told(result: Result) -> dict[str, object]:
    (line,) = result.lines
    found: dict[str, object] = json.loads(line)
    return found


def test_nothing_a_change_a_refusal_and_its_confirmation(setting: Setting, serve: Serve) -> None:
    running = serve(setting, linked=False)
    result = setting.fastagi("reload")
    assert (result.status, result.lines, result.err) == (0, ["nothing has changed"], "")
    setting.change("name: Alice Martin", "name: Alice M.")
    result = setting.fastagi("reload", "--json")
    assert result.status == 0
    line = "changed agent 4001: name 'Alice Martin' -> 'Alice M.'"
    assert told(result) == {"outcome": "reloaded", "lines": [line]}
    text = setting.file.read_text()
    setting.file.write_text(text[: text.index("agents:")] + "agents: []\n")
    result = setting.fastagi("reload")
    assert result.status == 1
    assert result.lines == ["3 of 3 agents would be archived: 4001, 4002, 4003"]
    assert result.err == (
        "fastagi: nothing was changed: where that is meant, fastagi reload --confirm\n"
    )
    assert [line.split()[0] for line in setting.fastagi("agents").lines[1:]] == [
        *("4001", "4002", "4003")
    ]
    result = setting.fastagi("reload", "--confirm")
    assert result.status == 0
    assert result.lines == [f"archived agent {number}" for number in ("4001", "4002", "4003")]
    assert len(setting.fastagi("agents").lines) == 1
    running.wait_for("done as it was confirmed")


def test_mistakes_are_told_and_change_nothing(setting: Setting, serve: Serve) -> None:
    serve(setting, linked=False)
    setting.change('number: "4003"', "number: x")  # read by the service alone
    result = setting.fastagi("reload")
    assert result.status == 2
    (line,) = result.lines
    assert line.endswith("agents[2].number: 'x' is no number: 1 to 20 digits")
    assert result.err == "fastagi: the configuration has errors, nothing was changed\n"
    setting.change("pause_reasons:", "pause_reason:")  # and by the command, too
    result = setting.fastagi("reload")
    assert result.status == 2
    assert "did you mean 'pause_reasons'?" in result.err
    for secret in (SECRET, PIN):
        assert secret not in result.out + result.err


def test_no_service(setting: Setting) -> None:
    result = setting.fastagi("reload")
    assert result.status == 1
    assert result.out == ""
    assert result.err.startswith(f"fastagi: no answer at 127.0.0.1:{setting.port}")
    assert "is `fastagi serve` running?" in result.err


@pytest.mark.asterisk
def test_check_says_who_would_go_and_what_is_hardly_meant(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0
    healthy.change(f'pin: "{PIN}"', 'pin: "4321"')
    # Read by check alone, which is quicker than the two seconds for which a file has to lie still.
    text = healthy.file.read_text()
    first = next(line for line in text.splitlines(keepends=True) if "Alice" in line)
    healthy.file.write_text(text.replace(first, ""))
    found = [json.loads(line) for line in healthy.fastagi("check", "--json").lines]
    (pin,) = [one for one in found if "sample's PIN" in one["what"]]
    assert (pin["level"], pin["about"]) == ("warning", "configuration")
    assert pin["what"] == "the sample's PIN, which everybody knows: agent 4002"
    assert pin["where"].endswith("agents[0].pin")
    assert pin["mend"] == "# a PIN of their own for each of them"
    (who,) = [one for one in found if "confirmed" in one["what"]]
    assert who["level"] == "problem"
    assert "agent 4001 is logged in, and would be archived" in who["what"]
    assert "1 of 3 agents would be archived: 4001" in who["what"]
    assert who["mend"] == "fastagi reload --confirm, where that is meant"
