"""Whatever stands in a call's headers, answers and digits: the call ends as a call should."""

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fastagi.agents.text import is_text, storable
from fastagi.agi.features import handlers
from fastagi.agi.protocol import ProtocolError, Reply, Request, Wire
from fastagi.agi.session import Session
from fastagi.contract import Script, Variable

from .test_features import FAILURES, Desk

# As Asterisk writes them; a value ends at the line's end, and may be anything else.
VALUE = st.text(st.characters(exclude_categories=(), exclude_characters="\n"), max_size=30)
RAW = VALUE.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=30).map(
    lambda raw: raw.replace(b"\n", b" ")
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("agi_channel", "agi_language", "agi_callerid", "agi_calleridname", "agi_uniqueid"),
            *("agi_context", "agi_extension", "agi_arg_1", "agi_arg_2", "agi_accountcode"),
        ]
    ),
    RAW,
)
SOUND = {
    "agi_channel": b"PJSIP/1001-0000002a",
    "agi_language": b"en",
    "agi_callerid": b"1001",
    "agi_uniqueid": b"1795348800.7",
    "agi_context": b"phones",
    "agi_extension": b"*31",
}
ANSWERS = st.sampled_from([b"0", b"-1", b"1", b"49", b"", b"1001", b"x", b"9" * 5000]) | RAW


def request_of(script: str, query: bytes, headers: dict[str, bytes]) -> Request:
    lines = [b"agi_network: yes", b"agi_network_script: " + script.encode() + b"?" + query]
    lines += [name.encode() + b": " + value for name, value in (SOUND | headers).items()]
    (request,) = Wire().receive(b"\n".join(lines) + b"\n\n")
    assert isinstance(request, Request)
    return request


@given(st.sampled_from(Script), RAW, HEADERS, st.lists(ANSWERS, max_size=6))
async def test_any_headers_and_answers(
    script: Script, query: bytes, headers: dict[str, bytes], answers: list[bytes]
) -> None:
    desk = Desk()
    sent: list[bytes] = []
    wire = Wire()
    wire._in_headers = False

    def write(line: bytes) -> None:
        sent.append(line)
        answer = answers.pop(0) if answers else b"0"
        with suppress(ProtocolError):
            for reply in wire.receive(b"200 result=" + answer + b"\n"):
                if isinstance(reply, Reply):
                    loop.call_soon(session.reply_received, reply)
                    return
        loop.call_soon(session.reply_received, Reply(200, "0"))

    loop = asyncio.get_running_loop()
    try:
        request = request_of(script, query, headers)
    except ProtocolError:
        return
    session = Session(request, write, loop)
    handler = handlers(desk.hall.service, lambda: desk.settings)[script]
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            await handler(session)
    assert not [line for line in logs if line["event"] in FAILURES], logs
    (call,) = [line for line in logs if line["event"] == "call"]
    if call["ended"] == "answered":
        assert any(Variable.STATUS.encode() in line for line in sent)
    for event in desk.hall.events:
        texts = [event.agent, event.extension, event.context, *vars_of(event.actor)]
        assert all(storable("x", text) == text for text in texts)
    odd = {k: v for line in logs for k, v in line.items() if not is_text(str(v))}
    assert not odd


def vars_of(actor: Any) -> list[str]:
    return [actor.channel, actor.caller_id, actor.unique_id, actor.name]


@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans())
def test_any_bytes_are_read_or_are_no_agi(chunks: list[bytes], after_headers: bool) -> None:
    wire = Wire()
    if after_headers:
        wire.receive(b"agi_network: yes\n\n")
    with suppress(ProtocolError):
        for chunk in chunks:
            wire.receive(chunk)


def test_numbers_without_end_in_a_reply() -> None:
    wire = Wire()
    wire.receive(b"agi_network: yes\n\n")
    for line in (b"200 result=0 endpos=%b\n", b"200 result=0 (x) endpos=%b\n"):
        (reply,) = wire.receive(line % (b"9" * 5000))
        assert isinstance(reply, Reply)
        assert (reply.result, reply.endpos) == ("0", None)
