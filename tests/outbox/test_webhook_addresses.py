"""Where hooks may reach: URLs, addresses, names, certificates."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from fastagi.agents.hooks import Attempt
from fastagi.outbox.hooks import HookDispatcher
from fastagi.outbox.http_client import NAMED, OURS, InvalidUrl, is_here, permitted, refusal, target

from .parts import event, now, until
from .receivers import (
    DEAF,
    OK,
    HookMemory,
    HttpReceiver,
    Seen,
    hook,
    receiver,
    reset,
    settings,
    telling,
)

LOOPBACK = "address 127.0.0.1 is not allowed (webhooks.allow)"
NOTHING_ALLOWED = settings(allow=(), timeout=timedelta(seconds=5))


@pytest.fixture
def memory() -> HookMemory:
    return HookMemory()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1/", LOOPBACK),
        ("http://127.0.0.1:5038/", LOOPBACK),
        ("https://127.0.0.1./", LOOPBACK),
        ("http://127.1/", LOOPBACK),
        ("http://2130706433/", LOOPBACK),
        ("http://0x7f000001/", LOOPBACK),
        ("http://0X7F.0.0.1/", LOOPBACK),
        ("http://0177.0.0.1/", LOOPBACK),
        ("http://017700000001/", LOOPBACK),
        ("http://127.0.0.0x1/", LOOPBACK),
        ("http://１２７。０。０。１/", LOOPBACK),
        ("http://①②⑦.⓪.⓪.①/", LOOPBACK),
        ("http://localhost/", LOOPBACK),
        ("http://LOCALHOST.:8080/", LOOPBACK),
        ("http://any.localhost/", LOOPBACK),
        ("http://127.8.9.10/", "address 127.8.9.10 is not allowed (webhooks.allow)"),
        ("http://0/", "address 0.0.0.0 is not allowed (webhooks.allow)"),
        ("http://10.1.2.3/", "address 10.1.2.3 is not allowed (webhooks.allow)"),
        ("http://100.64.0.1/", "address 100.64.0.1 is not allowed (webhooks.allow)"),
        (
            "http://169.254.169.254/latest/",
            "address 169.254.169.254 is not allowed (webhooks.allow)",
        ),
        ("http://172.31.255.255/", "address 172.31.255.255 is not allowed (webhooks.allow)"),
        ("http://192.168.1.1/", "address 192.168.1.1 is not allowed (webhooks.allow)"),
        ("http://224.0.0.1/", "address 224.0.0.1 is not allowed (webhooks.allow)"),
        ("http://255.255.255.255/", "address 255.255.255.255 is not allowed (webhooks.allow)"),
        ("http://[::1]/", "address ::1 is not allowed (webhooks.allow)"),
        ("http://[0:0:0:0:0:0:0:1]/", "address ::1 is not allowed (webhooks.allow)"),
        ("http://[::]/", "address :: is not allowed (webhooks.allow)"),
        ("http://[fe80::1]/", "address fe80::1 is not allowed (webhooks.allow)"),
        ("http://[fd00::1]/", "address fd00::1 is not allowed (webhooks.allow)"),
        ("http://[ff02::1]/", "address ff02::1 is not allowed (webhooks.allow)"),
        ("ftp://example.com/", "a URL begins with http:// or https://"),
        ("file:///etc/passwd", "a URL begins with http:// or https://"),
        ("gopher://127.0.0.1:5038/_x", "a URL begins with http:// or https://"),
        ("example.com/hook", "a URL begins with http:// or https://"),
        ("//example.com/hook", "a URL begins with http:// or https://"),
        ("http:example.com", "a URL begins with http:// or https://"),
        (" http://example.com/", "a URL begins with http:// or https://"),
        ("", "a URL begins with http:// or https://"),
        ("http://", "a URL needs a host"),
        ("http:///path", "a URL needs a host"),
        ("http://:80/", "a URL needs a host"),
        ("http://user@example.com/", "a URL with a user or a password is not called"),
        ("http://example.com@127.0.0.1/", "a URL with a user or a password is not called"),
        ("http://user:secret@example.com/", "a URL with a user or a password is not called"),
        ("http://example.com\\@127.0.0.1/", "a URL with a user or a password is not called"),
        ("http://example.com\\127.0.0.1/", "the host is no valid name"),
        ("http://127.0.0.1%2f.example.com/", "the host is no valid name"),
        ("http://127.0.0.1%00.example.com/", "the host is no valid name"),
        ("http://exa mple.com/", "the host is no valid name"),
        ("http://a..b/", "the host is no valid name"),
        (f"http://{'a' * 64}.com/", "the host is no valid name"),
        ("http://999.1.1.1/", "the host is no valid IPv4 address"),
        ("http://1.2.3.4.5/", "the host is no valid IPv4 address"),
        ("http://4294967296/", "the host is no valid IPv4 address"),
        ("http://[::1/", "this URL's host or port cannot be read"),
        ("http://[::g]/", "the host is no valid IPv6 address"),
        ("http://[fe80::1%25eth0]/", "an address with a zone cannot be called"),
        ("http://example.com:0/", "a port is a number from 1 to 65535"),
        ("http://example.com:65536/", "a port is a number from 1 to 65535"),
        ("http://example.com:8o/", "this URL's host or port cannot be read"),
        ("http://example.com:80:80/", "this URL's host or port cannot be read"),
        ("http://example.com/#x", "a URL with a fragment (#) cannot be called"),
        ("http://example.com#@127.0.0.1/", "a URL with a fragment (#) cannot be called"),
        ("http://example.com/a b", "only printable ASCII characters can stand in a URL"),
        ("http://example.com/\r\nX: y", "only printable ASCII characters can stand in a URL"),
        ("http://example.com/?a=\x00", "only printable ASCII characters can stand in a URL"),
        ("http://example.com/é", "only printable ASCII characters can stand in a URL"),
        ("http://example.com/" + "x" * 2000, "a URL has at most 2000 characters"),
    ],
)
def test_urls_that_are_refused(url: str, why: str) -> None:
    assert refusal(url, ()) == why
    dispatcher = HookDispatcher(HookMemory(), now, lambda: NOTHING_ALLOWED)
    assert dispatcher.refusal(url) == why


@pytest.mark.parametrize(
    "text",
    [
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "100::1",
        "fec0::1",
        "fc00::1",
        "::127.0.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "240.0.0.1",
        "0.1.2.3",
    ],
)
def test_addresses_that_are_refused(text: str) -> None:
    assert not permitted(ip_address(text), ())
    assert refusal(f"http://[{text}]/" if ":" in text else f"http://{text}/", ()) is not None


@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_addresses_of_the_world(text: str) -> None:
    assert permitted(ip_address(text), ())


@pytest.mark.parametrize(
    ("text", "network", "allowed"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("64:ff9b::10.1.2.3", "10.1.0.0/16", True),
        ("fd12::1", "fd12::/16", True),
        ("fd13::1", "fd12::/16", False),
        ("::1", "127.0.0.0/8", False),
        ("127.0.0.1", "::1/128", False),
        ("::1", "::1/128", True),
    ],
)
def test_private_networks_that_are_allowed(text: str, network: str, allowed: bool) -> None:
    assert permitted(ip_address(text), (ip_network(network),)) is allowed


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "query", "authority"),
    [
        ("http://example.com", "example.com", 80, "/", None, "example.com"),
        ("HTTPS://Example.COM:443/A?b=%20", "example.com", 443, "/A", "b=%20", "example.com"),
        ("http://example.com:443?x", "example.com", 443, "/", "x", "example.com:443"),
        ("https://example.com:/?", "example.com", 443, "/", "", "example.com"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, "/", None, "xn--bcher-kva.example"),
        ("http://a_b.example./", "a_b.example.", 80, "/", None, "a_b.example."),
        ("http://[2606:4700:0::1]:8/", "2606:4700::1", 8, "/", None, "[2606:4700::1]:8"),
        ("http://0x8080808/", "8.8.8.8", 80, "/", None, "8.8.8.8"),
        ("http://h.example/../%2e?a?b", "h.example", 80, "/../%2e", "a?b", "h.example"),
    ],
)
def test_a_url_is_read_once(
    url: str, host: str, port: int, path: str, query: str | None, authority: str
) -> None:
    read = target(url)
    assert (read.host, read.port, read.path, read.query) == (host, port, path, query)
    assert read.authority == authority
    assert refusal(url, ()) is None


def test_what_is_refused_is_not_repeated() -> None:
    with pytest.raises(InvalidUrl) as caught:
        target("http://user:secret@example.com/")
    assert "secret" not in str(caught.value)


Resolver = Callable[[dict[str, list[list[str]]]], list[str]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Answers for these names: one list of addresses for each time they are asked, the last for
    all that follow. Gives what was asked, in order."""
    real = socket.getaddrinfo

    def install(names: dict[str, list[list[str]]]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            if host not in names:
                return real(host, port, *rest, **more)
            times = asked.count(host)
            asked.append(host)
            answers = names[host]
            return [
                (
                    socket.AF_INET6 if ":" in address else socket.AF_INET,
                    socket.SOCK_STREAM,
                    6,
                    "",
                    (address, 0),
                )
                for address in answers[min(times, len(answers) - 1)]
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return install


async def _test(url: str, allow: tuple[str, ...] = (), **more: Any) -> Attempt:
    current = settings(allow=tuple(ip_network(text) for text in allow), **more)
    async with telling(HookMemory(), current) as dispatcher:
        return await dispatcher.test(hook(url), {"a": "b"})


async def test_names_of_loopback_are_not_called(resolver: Resolver) -> None:
    resolver({"inside.example": [["127.0.0.1"]], "six.example": [["::ffff:127.0.0.1", "::1"]]})
    async with receiver() as there:
        attempt = await _test(there.url(host="inside.example"))
        assert attempt.error == NAMED
        assert (attempt.outcome, attempt.status) == ("failed", None)
        for host in ("localhost", "six.example"):
            assert (await _test(there.url(host=host))).error == NAMED
        assert (await _test(there.url(host="[::ffff:127.0.0.1]"))).error == LOOPBACK
    assert there.connections == 0


async def test_the_name_stays_in_the_request(resolver: Resolver) -> None:
    resolver({"inside.example": [["127.0.0.1"]]})
    async with receiver() as there:
        attempt = await _test(there.url(host="Inside.EXAMPLE"), ("127.0.0.1",))
    assert attempt.status == 200
    assert there.seen[0].headers["host"] == f"inside.example:{there.port}"


async def test_of_several_addresses_the_allowed_ones_are_called(resolver: Resolver) -> None:
    resolver({"mixed.example": [["10.255.255.1", "127.0.0.3", "127.0.0.2"]]})
    async with receiver(host="127.0.0.2") as there:
        # Nobody listens at 127.0.0.3: the next one is tried.
        attempt = await _test(there.url(host="mixed.example"), ("127.0.0.2/31",))
    assert attempt.status == 200


async def test_what_was_judged_is_what_is_called(memory: HookMemory, resolver: Resolver) -> None:
    """DNS rebinding: a name that is harmless when it is judged, and another one after that."""
    asked = resolver({"rebind.example": [["127.0.0.2"], ["127.0.0.1"]]})

    async def last(seen: Seen, writer: asyncio.StreamWriter) -> bytes:
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    async with receiver(last, host="127.0.0.2") as fair:
        server = await asyncio.start_server(lambda r, w: caught.append(w), "127.0.0.1", fair.port)
        caught: list[asyncio.StreamWriter] = []
        allow = settings(allow=(ip_network("127.0.0.2/32"),), attempts=2)
        async with server, telling(memory, allow):
            told = hook(fair.url(host="rebind.example"))
            memory.owe(told, event(), event())
            await until(lambda: memory.parked)
    assert len(fair.seen) == 1
    assert memory.outcomes() == ["delivered", "failed", "parked"]
    assert memory.log[1][1].error == NAMED
    assert asked == ["rebind.example"] * 3, "looked up once for each connection"
    assert not caught


async def test_a_reload_that_disallows_ends_kept_connections(memory: HookMemory) -> None:
    current = settings(attempts=1)
    async with receiver() as there, telling(memory, lambda: current, DEAF):
        told = hook(there.url())
        memory.owe(told, event())
        await until(lambda: memory.log)
        current = settings(attempts=1, allow=(ip_network("10.0.0.0/8"),))
        memory.owe(told, event())
        await until(lambda: memory.parked)
        await until(lambda: not there.open)
    assert memory.log[1][1].error == LOOPBACK
    assert len(there.seen) == 1


async def test_a_reload_breaks_nothing_under_way(memory: HookMemory) -> None:
    go_on = asyncio.Event()

    async def slowly(seen: Seen, writer: asyncio.StreamWriter) -> bytes:
        await go_on.wait()
        return OK

    current = settings()
    async with (
        receiver(slowly) as slow,
        receiver() as other,
        telling(memory, lambda: current, DEAF),
    ):
        memory.owe(hook(slow.url()), event())
        await until(lambda: slow.seen)
        current = settings(allow=(ip_network("127.0.0.1/32"),))
        memory.owe(hook(other.url()), event())
        await until(lambda: other.seen)
        go_on.set()
        await until(lambda: len(memory.log) == 2)
        await until(lambda: not slow.open)  # made under the old settings: not kept
    assert memory.outcomes() == ["delivered", "delivered"]


async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        assert host == "gone.example"
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with structlog.testing.capture_logs() as logs:
        attempt = await _test("http://gone.example/")
    assert attempt.error == NAMED
    assert (attempt.outcome, attempt.status) == ("failed", None)
    assert logs[0]["why"] == "the name gone.example does not resolve: name or service not known"


async def test_what_a_name_leads_to_in_here_is_for_the_log_alone(
    memory: HookMemory, resolver: Resolver
) -> None:
    """Whoever may make hooks does not learn the network behind them: neither where a name leads,
    nor which names there are."""
    resolver({"db.inside.example": [["10.1.2.3"]], "no.inside.example": [[]]})
    limited = settings(allow=(), attempts=1)
    errors = []
    with structlog.testing.capture_logs() as logs:
        for name in ("db", "no"):
            url = f"http://{name}.inside.example/"
            errors.append((await _test(url)).error)
            async with telling(memory, limited):
                memory.owe(hook(url), event())
                await until(lambda: memory.parked)
            errors.append(memory.log.pop()[1].error)
            memory.parked.clear()
    assert errors == [NAMED] * 4
    whys = [line["why"] for line in logs if "why" in line]
    assert whys == [
        *["address 10.1.2.3 is not allowed (webhooks.allow)"] * 2,
        *["the name no.inside.example does not resolve"] * 2,
    ]
    # Of an address that was written down nothing is told that is not known already.
    literal = "address 10.1.2.3 is not allowed (webhooks.allow)"
    assert (await _test("http://10.1.2.3/")).error == literal


# -- the service itself


WAYS_HERE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "127.0.0.2",  # by whatever address of this machine
    "0.0.0.0",
    "0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "localhost",
    "any.localhost",
]
EVERYWHERE = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize("host", WAYS_HERE)
async def test_the_service_itself_is_never_called(host: str) -> None:
    """Whatever is allowed: a token that may only make hooks would do there what others may."""
    async with receiver() as there, receiver() as other:
        allow = tuple(ip_network(text) for text in EVERYWHERE)
        own = (("127.0.0.1", there.port), ("10.9.8.7", 5038))
        dispatcher = HookDispatcher(
            HookMemory(), now, lambda: settings(allow=allow, attempts=1), own=own
        )
        url = f"http://{host}:{there.port}/api/agent.php?command=logoff&agent=1001"
        assert dispatcher.refusal(url) == OURS
        attempt = await dispatcher.test(hook(url), {"a": "b"})
        assert attempt.outcome == "failed"
        assert attempt.error in (OURS, NAMED)
        # Another port of this machine is somebody else's, and can be allowed.
        assert dispatcher.refusal(other.url()) is None
        assert (await dispatcher.test(hook(other.url()), {"a": "b"})).status == 200
    assert there.connections == 0


async def test_nor_by_a_name_that_leads_there(resolver: Resolver) -> None:
    resolver(
        {
            "pbx.example": [["127.0.0.1"]],
            "six.pbx.example": [["::1", "::ffff:127.0.0.1"]],
            "ami.example": [["10.9.8.7"]],
            "manager.example": [["10.9.8.7"]],
        }
    )
    async with receiver() as there:
        allow = tuple(ip_network(text) for text in EVERYWHERE)
        own = (("0.0.0.0", there.port), ("ami.example", 5038))
        dispatcher = HookDispatcher(HookMemory(), now, lambda: settings(allow=allow), own=own)
        for url in (
            there.url(host="pbx.example"),
            there.url(host="six.pbx.example"),
            "http://manager.example:5038/",  # Asterisk's, by another name
            "http://ami.example:5038/",
        ):
            with structlog.testing.capture_logs() as logs:
                attempt = await dispatcher.test(hook(url), {"a": "b"})
            assert attempt.error == NAMED
            assert logs[0]["why"] == OURS
        attempt = await dispatcher.test(hook("http://10.9.8.7:5038/"), {"a": "b"})
        assert attempt.error == OURS
    assert there.connections == 0


def test_addresses_of_this_machine() -> None:
    for text in ("127.0.0.1", "127.200.1.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"):
        assert is_here(ip_address(text)), text
    for text in ("8.8.8.8", "192.0.2.1", "2001:db8::1", "::ffff:8.8.8.8"):
        assert not is_here(ip_address(text)), text


async def test_a_look_up_that_hangs_holds_up_nobody(
    memory: HookMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go_on = socket.getaddrinfo, threading.Event()
    asked: list[str] = []

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".example"):
            return real(host, *rest, **more)
        asked.append(host)
        go_on.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with receiver() as there:
            limit = settings(timeout=timedelta(seconds=0.5), attempts=2)
            async with telling(memory, limit):
                for number in range(60):  # more than any pool of threads has
                    memory.owe(hook(f"http://dead{number % 20}.example/"), event())
                memory.owe(hook(there.url(host="localhost")), event())
                await until(lambda: there.seen)
                await until(lambda: len(memory.parked) == 60)
    finally:
        go_on.set()
    assert {attempt.error for _, attempt in memory.log} == {"", "no answer within 0.5 s"}
    assert sorted(set(asked)) == sorted(asked), "asked twice at once"


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as proxy, receiver() as there:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("/"))
        assert (await _test(there.url(), ("127.0.0.1",))).status == 200
    assert proxy.connections == 0


async def test_cookies_are_not_kept(memory: HookMemory) -> None:
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with receiver(answer) as there, telling(memory):
        memory.owe(hook(there.url()), event(), event())
        await until(lambda: len(memory.log) == 2)
    assert all("cookie" not in seen.headers for seen in there.seen)


async def test_ipv6_receivers(memory: HookMemory) -> None:
    async with receiver(host="::1") as there:
        attempt = await _test(there.url(host="[::1]"), ("::1",))
    assert attempt.status == 200
    assert there.seen[0].headers["host"] == f"[::1]:{there.port}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key in one file, for receiver.example and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:receiver.example,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=receiver.example", "-addext", names]
    command += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/certificate.pem"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    both = folder / "both.pem"
    both.write_text((folder / "certificate.pem").read_text() + (folder / "key.pem").read_text())
    return both


def _secure(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _https(there: HttpReceiver, host: str) -> str:
    return there.url(host=host).replace("http:", "https:")


async def test_tls_verifies_the_name(
    memory: HookMemory,
    certificate: Path,
    resolver: Resolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loopback = [["127.0.0.1"]]
    resolver({"receiver.example": loopback, "other.example": loopback})
    allow = ("127.0.0.1",)
    async with receiver(ssl=_secure(certificate)) as there:
        stranger = await _test(_https(there, "receiver.example"), allow)
        assert stranger.error == "certificate refused: self-signed certificate"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await _test(_https(there, "receiver.example"), allow)).status == 200
        assert (await _test(_https(there, "127.0.0.1"), allow)).status == 200
        wrong = await _test(_https(there, "other.example"), allow)
        assert wrong.error.startswith("certificate refused: Hostname mismatch")
        assert wrong.status is None
        assert len(there.seen) == 2
        there.connections = 0
        async with telling(memory, settings(), replace(DEAF)):
            memory.owe(hook(_https(there, "receiver.example")), *[event() for _ in range(5)])
            await until(lambda: not memory.owed)
    assert there.connections == 1
    assert memory.outcomes() == ["delivered"] * 5


async def test_a_receiver_without_tls() -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(banner, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        attempt = await _test(f"https://127.0.0.1:{port}/", ("127.0.0.1",))
    assert attempt.error.startswith("TLS failed")


async def test_a_receiver_that_hangs_in_tls() -> None:
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        attempt = await _test(url, ("127.0.0.1",), timeout=timedelta(seconds=3))
        await closed.wait()
    assert attempt.error == "no answer within 3 s"


def test_on_uvloop_as_in_the_service(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    memory = HookMemory()

    async def scene() -> list[HttpReceiver]:
        async with (
            receiver() as plain,
            receiver(ssl=_secure(certificate)) as secure,
            receiver(reset) as broken,
            telling(memory, settings(attempts=1), DEAF),
        ):
            for url in (plain.url(), _https(secure, "127.0.0.1")):
                memory.owe(hook(url), event(), event())
            memory.owe(hook(broken.url()), event())
            memory.owe(hook("http://127.0.0.1:1/"), event())
            await until(lambda: not memory.owed)
            return [plain, secure]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        receivers = runner.run(scene())
    assert [there.connections for there in receivers] == [1, 1]
    assert sorted(attempt.error for _, attempt in memory.log) == [
        *[""] * 4,
        "connection refused",
        "the connection broke",
    ]
