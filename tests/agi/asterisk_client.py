"""Plays Asterisk towards a FastAGI server: sends the headers, answers the commands, hangs up.

    call = await dial(port, "agent/login", "1001", digits=["4321"])
    assert call.variables["AGENT_STATUS"] == "LOGGED_IN"
    assert "agent-loginok" in call.heard

Answers are Asterisk's own, as res_agi.c gives them, also on a dead channel.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Answer = str | Callable[[list[str]], str]

# What Asterisk still does after the caller hung up (res_agi.c: the last column of `commands`).
WORKS_DEAD = (
    *("SET VARIABLE", "GET VARIABLE", "GET FULL VARIABLE"),
    *("EXEC", "NOOP", "VERBOSE", "DATABASE"),
)
ENDS_WITH_THE_CALL = ("STREAM FILE", "GET DATA", "SAY ", "WAIT FOR DIGIT", "ANSWER", "EXEC")


def words(line: str) -> list[str]:
    """Split a command line as Asterisk does (res_agi.c: parse_args)."""
    found: list[list[str]] = []
    quoted = escaped = False
    between = True
    for c in line:
        if c == '"' and not escaped:
            quoted = not quoted
            if quoted and between:
                found.append([])
                between = False
        elif c in " \t" and not quoted and not escaped:
            between = True
        elif c == "\\" and not escaped:
            escaped = True
            continue
        else:
            if between:
                found.append([])
                between = False
            found[-1].append(c)
        escaped = False
    return ["".join(word) for word in found]


def headers(
    script: str = "agent/login",
    *args: str,
    extension: str = "1001",
    channel: str | None = None,
    more: Mapping[str, str] | None = None,
) -> bytes:
    """The header block of Asterisk 22, as bytes; ``more`` replaces or adds headers."""
    lines = {
        "agi_network": "yes",
        "agi_network_script": script,
        "agi_request": f"agi://127.0.0.1/{script}",
        "agi_channel": channel or f"PJSIP/{extension}-00000001",
        "agi_language": "en",
        "agi_type": "PJSIP",
        "agi_uniqueid": "1790000000.1",
        "agi_version": "22.10.1",
        "agi_callerid": extension,
        "agi_calleridname": f"Phone {extension}",
        "agi_callingpres": "0",
        "agi_callingani2": "0",
        "agi_callington": "0",
        "agi_callingtns": "0",
        "agi_dnid": "*31",
        "agi_rdnis": "unknown",
        "agi_context": "phones",
        "agi_extension": "*31",
        "agi_priority": "2",
        "agi_enhanced": "0.0",
        "agi_accountcode": "",
        "agi_threadid": "140000000000",
    }
    lines |= {f"agi_arg_{n}": arg for n, arg in enumerate(args, 1)}
    lines |= more or {}
    text = "".join(f"{name}: {value}\n" for name, value in lines.items() if name)
    return text.encode("utf-8", "surrogateescape") + b"\n"


@dataclass
class Call:
    """What the server did with a call."""

    commands: list[str] = field(default_factory=list)  # each line as it came
    heard: list[str] = field(default_factory=list)  # sounds played, "digits:…", "number:…"
    variables: dict[str, str] = field(default_factory=dict)
    executed: list[tuple[str, str]] = field(default_factory=list)
    set_last: str = ""  # the name of the variable that was set last
    hung_up: bool = False


async def dial(
    port: int,
    script: str = "agent/login",
    *args: str,
    host: str = "127.0.0.1",
    extension: str = "1001",
    channel: str | None = None,
    more: Mapping[str, str] | None = None,
    digits: Iterable[str] = (),
    keys: Mapping[str, str] | None = None,
    answers: Mapping[str, Answer] | None = None,
    missing: Iterable[str] = (),
    told: Mapping[str, str] | None = None,
    hang_up_at: int | None = None,
    hang_up_after: int | None = None,
    drop_at: int | None = None,
    notices: bool = True,
    wait: float = 0.0,
    timeout: float = 10.0,
) -> Call:
    """One call, until the server closes; raises TimeoutError when it does not.

    digits         what the caller enters at each GET DATA, in turn; "" is only ``#``; then nothing
    keys           sound -> the key pressed during it, where it ends the sound
    answers        start of a command -> what is answered instead (a text, or made from its words)
    missing        sounds that do not exist
    told           expression of the dialplan -> its value; all others are empty
    hang_up_at     the caller hangs up during this command (0 is the first)
    hang_up_after  … or just after this one was answered
    drop_at        the connection is reset at this command
    notices        false: AGISIGHUP=no, no HANGUP is sent
    wait           seconds each sound lasts
    """
    call = Call()
    entered = iter(digits)
    keys = keys or {}
    missing = frozenset(missing)
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(headers(script, *args, extension=extension, channel=channel, more=more))
            number = -1
            while line := await reader.readline():
                number += 1
                text = line.decode().removesuffix("\n")
                call.commands.append(text)
                if number == drop_at:
                    writer.transport.abort()
                    break
                replies: list[str] = []
                if number == hang_up_at and not call.hung_up:
                    call.hung_up = True
                    if text.startswith(ENDS_WITH_THE_CALL):
                        replies.append("200 result=-1" + " endpos=800" * ("STREAM" in text))
                    replies += ["HANGUP"] * notices
                if len(replies) < 1 or not replies[0].startswith("200"):
                    if wait and text.startswith("STREAM FILE"):
                        await asyncio.sleep(wait)
                    replies.append(
                        _answer(call, text, entered, keys, answers or {}, missing, told or {})
                    )
                if number == hang_up_after and not call.hung_up:
                    call.hung_up = True
                    replies += ["HANGUP"] * notices
                writer.write("".join(reply + "\n" for reply in replies).encode())
        except ConnectionError:
            pass
        finally:
            writer.close()
    return call


def _answer(
    call: Call,
    line: str,
    entered: Iterable[str],
    keys: Mapping[str, str],
    answers: Mapping[str, Answer],
    missing: frozenset[str],
    told: Mapping[str, str],
) -> str:
    command = words(line)
    for start, answer in answers.items():
        if line.startswith(start):
            return answer if isinstance(answer, str) else answer(command)
    if call.hung_up and not line.startswith(WORKS_DEAD):
        return "511 Command Not Permitted on a dead channel or intercept routine"
    match command:
        case ["ANSWER"] | ["NOOP", *_] | ["VERBOSE", *_]:
            return "200 result=0"
        case ["CHANNEL", "STATUS"]:
            return "200 result=6"
        case ["STREAM", "FILE", sound, escape]:
            if sound in missing:
                return "200 result=-1 endpos=0"
            call.heard.append(sound)
            key = keys.get(sound, "")
            return f"200 result={ord(key) if key and key in escape else 0} endpos=8000"
        case ["GET", "DATA", sound, *_]:
            if sound in missing:
                return "200 result=-1"
            call.heard.append(sound)
            given = next(iter(entered), None)
            return "200 result= (timeout)" if given is None else f"200 result={given}"
        case ["SAY", what, text, escape]:
            call.heard.append(f"{what.lower()}:{text}")
            key = keys.get(f"{what.lower()}:{text}", "")
            return f"200 result={ord(key) if key and key in escape else 0}"
        case ["WAIT", "FOR", "DIGIT", _]:
            given = next(iter(entered), None)
            return f"200 result={ord(given) if given else 0}"
        case ["SET", "VARIABLE", name, value]:
            call.variables[name] = value
            call.set_last = name
            return "200 result=1"
        case ["GET", "VARIABLE", name]:
            stored = call.variables.get(name)
            return "200 result=0" if stored is None else f"200 result=1 ({stored})"
        case ["GET", "FULL", "VARIABLE", text]:
            return f"200 result=1 ({told.get(text, '')})"
        case ["EXEC", application, *rest]:
            call.executed.append((application, rest[0] if rest else ""))
            return "200 result=0"
        case ["HANGUP"]:
            return "200 result=1"
    return "510 Invalid or unknown command"
