"""AGI as bytes: cut anywhere, quoted for Asterisk, bounded in every direction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agi.protocol import (
    MAX_COMMAND_BYTES,
    MAX_COMMAND_WORDS,
    MAX_HEADER_BYTES,
    MAX_HEADER_LINE,
    MAX_HEADERS,
    MAX_NOTICES,
    MAX_REPLY_BYTES,
    CommandRefused,
    CommandTooLong,
    ControlCharacter,
    Event,
    Hangup,
    HeadersTooLong,
    LineTooLong,
    MalformedReply,
    NotAGI,
    NotEncodable,
    ProtocolError,
    RepeatedHeader,
    Reply,
    ReplyTooLong,
    Request,
    TooManyHeaders,
    TooManyWords,
    Wire,
    command,
    printable,
)

from .asterisk_client import headers, words

HEADERS = headers("agent/login?try=2", "1001", "1002")
REPLIES = {
    b"200 result=0\n": Reply(200, "0"),
    b"200 result=1\n": Reply(200, "1"),
    b"200 result=-1\n": Reply(200, "-1"),
    b"200 result=\n": Reply(200, ""),
    b"200 result=12\n": Reply(200, "12"),
    b"200 result= (timeout)\n": Reply(200, "", "timeout"),
    b"200 result=12 (timeout)\n": Reply(200, "12", "timeout"),
    b"200 result=0 endpos=4160\n": Reply(200, "0", None, 4160),
    b"200 result=-1 endpos=0\n": Reply(200, "-1", None, 0),
    b"200 result=1 (sales)\n": Reply(200, "1", "sales"),
    b"200 result=1 ()\n": Reply(200, "1", ""),
    b"200 result=1 (a (b) c)\n": Reply(200, "1", "a (b) c"),
    b"200 result=1 (speech) endpos=7 results=0\n": Reply(200, "1", "speech", 7),
    b"200 result=1 (two\nlines)\n": Reply(200, "1", "two\nlines"),
    b"200 result=1 (a\nHANGUP\n)\n": Reply(200, "1", "a\nHANGUP\n"),
    "200 result=1 (é)\n".encode(): Reply(200, "1", "é"),
    b"200 result=1 (\xe9)\n": Reply(200, "1", "é"),
    b"510 Invalid or unknown command\n": Reply(510, text="Invalid or unknown command"),
    b"511 Command Not Permitted on a dead channel\n": Reply(
        511, text="Command Not Permitted on a dead channel"
    ),
    b"520 Invalid command syntax.  Proper usage not available.\n": Reply(
        520, text="Invalid command syntax.  Proper usage not available."
    ),
    b"520-Invalid command syntax.  Proper usage follows:\nUsage: ANSWER\nHANGUP\n\n"
    b"520 End of proper usage.\n": Reply(
        520,
        text="Invalid command syntax.  Proper usage follows:\nUsage: ANSWER\nHANGUP\n\n"
        "End of proper usage.",
    ),
}


def feed(*pieces: bytes) -> list[Event]:
    wire = Wire()
    return [event for piece in pieces for event in wire.receive(piece)]


def replies(*pieces: bytes) -> list[Event]:
    return feed(HEADERS, *pieces)[1:]


def test_request_says_what_asterisk_said() -> None:
    [request] = feed(HEADERS)
    assert isinstance(request, Request)
    assert request.script == "agent/login"
    assert request.query == "try=2"
    assert request.args == ("1001", "1002")
    assert request.channel == "PJSIP/1001-00000001"
    assert request.callerid == "1001"
    assert request.calleridname == "Phone 1001"
    assert request.uniqueid == "1790000000.1"
    assert request.language == "en"
    assert request.context == "phones"
    assert request.extension == "*31"
    assert request.headers["agi_accountcode"] == ""
    assert len(request.headers) == 24


def test_url_without_a_path_has_an_empty_script() -> None:
    [request] = feed(b"agi_network: yes\nagi_request: agi://host\n\n")
    assert isinstance(request, Request)
    assert (request.script, request.args, request.channel) == ("", (), "")


def test_request_cut_at_every_point() -> None:
    data = HEADERS + b"HANGUP\n"
    whole = feed(data)
    assert [type(event) for event in whole] == [Request, Hangup]
    for cut in range(len(data) + 1):
        assert feed(data[:cut], data[cut:]) == whole, cut
    assert feed(*(bytes([byte]) for byte in data)) == whole


def test_request_with_carriage_returns_cut_at_every_point() -> None:
    data = HEADERS.replace(b"\n", b"\r\n") + b"200 result=1\r\n"
    whole = feed(HEADERS, b"200 result=1\n")
    for cut in range(len(data) + 1):
        assert feed(data[:cut], data[cut:]) == whole, cut
    assert feed(*(bytes([byte]) for byte in data)) == whole


@pytest.mark.parametrize("raw", REPLIES, ids=lambda raw: raw.decode("latin-1").strip()[:40])
def test_reply_cut_at_every_point(raw: bytes) -> None:
    whole = [REPLIES[raw], Hangup(), Reply(200, "7")]
    data = raw + b"HANGUP\n200 result=7\n"
    assert replies(data) == whole
    for cut in range(len(data) + 1):
        assert replies(data[:cut], data[cut:]) == whole, cut
    assert replies(*(bytes([byte]) for byte in data)) == whole


def test_all_replies_in_one_stream_of_any_pieces() -> None:
    data = b"".join(REPLIES)
    for size in (1, 2, 3, 7, 50, 1000):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert replies(*pieces) == list(REPLIES.values())


def test_timeout_with_and_without_digits_and_only_hash_differ() -> None:
    three = replies(b"200 result=\n", b"200 result= (timeout)\n", b"200 result=12 (timeout)\n")
    assert len(set(three)) == 3


@given(st.binary(max_size=300).filter(lambda name: b"\n" not in name and b"\r" not in name))
def test_any_bytes_as_caller_name(name: bytes) -> None:
    data = HEADERS.replace(b"Phone 1001", name)
    [request] = feed(data)
    assert isinstance(request, Request)
    shown = printable(request.calleridname)
    assert shown.isprintable()
    request.calleridname.encode()
    assert request.args == ("1001", "1002")
    try:
        assert request.calleridname == name.decode()
    except UnicodeDecodeError:
        assert request.calleridname == name.decode("latin-1")


def test_latin_1_name_does_not_spoil_other_headers() -> None:
    data = HEADERS.replace(b"Phone 1001", b"Fran\xe7ois").replace(
        b": phones", ": téléphones".encode()
    )
    [request] = feed(data)
    assert isinstance(request, Request)
    assert request.calleridname == "François"
    assert request.context == "téléphones"


def test_line_break_in_a_value_cannot_replace_a_header() -> None:
    with pytest.raises(RepeatedHeader):
        feed(HEADERS.replace(b"Phone 1001", b"x\nagi_extension: 99"))
    [request] = feed(HEADERS.replace(b"Phone 1001", b"x\nand more"))
    assert isinstance(request, Request)
    assert request.calleridname == "x"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\n",
        b"\r\n\r\n",
        b"HANGUP\n",
        b"agx",
        b"\x00",
    ],
)
def test_what_is_not_agi_is_known_from_its_first_bytes(data: bytes) -> None:
    with pytest.raises(NotAGI):
        feed(data)
    with pytest.raises(NotAGI):
        feed(*(bytes([byte]) for byte in data))


@pytest.mark.parametrize("size", [1, 1000, 65_536])
def test_header_limits(size: int) -> None:
    def send(data: bytes) -> None:
        feed(*(data[at : at + size] for at in range(0, len(data), size)))

    line = b"agi_arg_1: "
    send(b"agi_network: yes\n" + line + b"x" * (MAX_HEADER_LINE - len(line)) + b"\n\n")
    with pytest.raises(LineTooLong):
        send(b"agi_network: yes\n" + line + b"x" * MAX_HEADER_LINE + b"\n\n")
    with pytest.raises(HeadersTooLong):
        send(b"agi_network: yes\n" + line + b"x" * MAX_HEADER_BYTES)
    with pytest.raises(HeadersTooLong):
        send(b"".join(b"agi_x%05d: %s\n" % (n, b"x" * 200) for n in range(200)) + b"\n")
    send(b"".join(b"agi_%d: x\n" % n for n in range(MAX_HEADERS)) + b"\n")
    with pytest.raises(TooManyHeaders):
        send(b"".join(b"agi_%d: x\n" % n for n in range(MAX_HEADERS + 1)) + b"\n")


def test_reply_limits() -> None:
    value = b"200 result=1 (" + b"x" * (MAX_REPLY_BYTES - 15) + b")"
    [reply] = replies(value + b"\n")
    assert isinstance(reply, Reply)
    assert len(reply.value or "") == MAX_REPLY_BYTES - 15
    with pytest.raises(ReplyTooLong):
        replies(value + b"xx)\n")
    with pytest.raises(ReplyTooLong):
        replies(value, b"xx")
    with pytest.raises(ReplyTooLong):
        replies(b"520-Usage\n", *(b"more and more and more\n" for _ in range(5_000)))
    with pytest.raises(ReplyTooLong):
        replies(b"520-Usage\n", b"\n" * (MAX_REPLY_BYTES + 1))
    with pytest.raises(ReplyTooLong):
        replies(b"200 result=1 (", *(b"x" * 1_000 for _ in range(66)))


def test_an_endless_line_is_not_kept() -> None:
    wire = Wire()
    wire.receive(HEADERS)
    for _ in range(MAX_REPLY_BYTES // 1_024):
        wire.receive(b"x" * 1_024)
    with pytest.raises(ReplyTooLong):
        wire.receive(b"x")


@pytest.mark.parametrize("line", [b"", b"result=0", b"20 result=0", b"hello", b"\xff\xfe", b"2000"])
def test_what_is_no_reply(line: bytes) -> None:
    with pytest.raises(MalformedReply):
        replies(line + b"\n")


def test_hangup_over_and_over() -> None:
    assert replies(b"HANGUP\n" * MAX_NOTICES) == [Hangup()] * MAX_NOTICES
    with pytest.raises(MalformedReply):
        replies(b"HANGUP\n" * (MAX_NOTICES + 1))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_noise_is_an_error_or_events_and_nothing_else(pieces: list[bytes]) -> None:
    for before in ([], [HEADERS]):
        try:
            events = feed(*before, *pieces)
        except ProtocolError:
            continue
        assert all(isinstance(event, Request | Reply | Hangup) for event in events)


# --- commands -----------------------------------------------------------------------------------

CLEAN = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60)


@given(st.lists(CLEAN, min_size=1, max_size=10))
def test_asterisk_reads_the_words_that_were_written(given_words: list[str]) -> None:
    line = command(*given_words)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert words(line.decode().removesuffix("\n")) == given_words


@given(st.text(max_size=30), st.sampled_from("\n\r\t\0\x1b\x7f\x85"), st.text(max_size=30))
def test_control_characters_are_refused(before: str, control: str, after: str) -> None:
    with pytest.raises(ControlCharacter):
        command("SET", "VARIABLE", "X", before + control + after)


@given(st.text(max_size=100))
def test_any_text_is_one_word_or_refused(text: str) -> None:
    try:
        line = command("SET", "VARIABLE", "X", text)
    except CommandRefused:
        return
    assert words(line.decode().removesuffix("\n")) == ["SET", "VARIABLE", "X", text]


def test_quoting_only_where_needed() -> None:
    assert command("STREAM", "FILE", "agent-loginok", "") == b'STREAM FILE agent-loginok ""\n'
    assert command("SET", "VARIABLE", "A", "*31#1001") == b"SET VARIABLE A *31#1001\n"
    assert command("SET", "VARIABLE", "A", 'a "b" \\') == b'SET VARIABLE A "a \\"b\\" \\\\"\n'
    assert command("SET", "VARIABLE", "A", "é") == 'SET VARIABLE A "é"\n'.encode()


def test_command_limits() -> None:
    room = MAX_COMMAND_BYTES - len(b"SET VARIABLE A \n")
    assert len(command("SET", "VARIABLE", "A", "x" * room)) == MAX_COMMAND_BYTES
    with pytest.raises(CommandTooLong):
        command("SET", "VARIABLE", "A", "x" * (room + 1))
    with pytest.raises(CommandTooLong):
        command("SET", "VARIABLE", "A", "é" * (room // 2))
    command(*["x"] * MAX_COMMAND_WORDS)
    with pytest.raises(TooManyWords):
        command(*["x"] * (MAX_COMMAND_WORDS + 1))
    with pytest.raises(NotEncodable):
        command("SET", "VARIABLE", "A", "\ud800")


def test_printable() -> None:
    assert printable("Alice é") == "Alice é"
    assert printable("a\nb\x1b[31m\x00\u2028") == "a\\nb\\x1b[31m\\x00\\u2028"
