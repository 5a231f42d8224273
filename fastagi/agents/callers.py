"""Who calls: one of our phones, somebody whom ``login.from`` lets use the codes, or nobody known.

The codes act for whoever dials them, without a password. So the call must come from a phone: what
tells is the channel, whose name Asterisk makes of the technology and the endpoint, and never the
caller ID alone, which anybody can forge from outside. Pure: what only Asterisk can tell is asked
through ``Questions``, by the service over FastAGI and by the fallback over classic AGI.
"""

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from fastagi.agents.devices import (
    Device,
    DeviceRule,
    Pattern,
    endpoint_of,
    is_extension,
    resolve,
)
from fastagi.contract import CALL_CONTEXT

# What is asked of Asterisk: expressions of the dialplan, with nothing in them from outside.
CAME_FROM = "${STACK_PEEK(1,c)}"  # the context that our subroutine was called from
TRANSFERER = "${TRANSFERERNAME}"  # set where a call's consultation goes through a Local channel
FIRST_CHANNEL = "${MASTER_CHANNEL(CHANNEL(name))}"  # with which the call began …
FIRST_SENT_BY = "${MASTER_CHANNEL(BLINDTRANSFER)}"  # … and who transferred it, without consulting
# Which channel has sent the call to the code. The dialplan tells it, so that nothing is asked.
SENT_BY = "${BLINDTRANSFER}${FORWARDERNAME}"
CONFIGURED = "${{PJSIP_ENDPOINT({},context)}}"  # the context that calls of an endpoint begin in
CONFIGURED_IN = {  # by technology; of the others, such as DAHDI, Asterisk does not tell it
    "PJSIP": CONFIGURED,
    "SIP": "${{SIPPEER({},context)}}",
    "IAX2": "${{IAXPEER({},context)}}",
}

Questions = Generator[str, str, "Caller"]

_LOCAL = re.compile(r"Local/(?P<dialled>.*)@[^@]*-[0-9a-f]+;(?P<half>[12])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Access:
    """The admin's choices of who may use the codes, and of where a caller sits.

    ``contexts`` and ``endpoints`` are those of ``login.from``, beside the phones. An endpoint is a
    technology, in lower case, and a pattern for the name.
    """

    rules: tuple[DeviceRule, ...]
    by_endpoint: bool = True  # the extension is the endpoint's name, else the caller ID
    contexts: frozenset[str] = frozenset()
    endpoints: tuple[tuple[str, Pattern], ...] = ()

    @property
    def phone_contexts(self) -> frozenset[str]:
        """In which the dialplan says the phones are."""
        return frozenset(r.context for r in self.rules if r.context and r.type == "local")

    def lists(self, technology: str, endpoint: str) -> bool:
        return any(
            technology.lower() == listed and pattern.matches(endpoint)
            for listed, pattern in self.endpoints
        )


class Standing(Enum):
    PHONE = auto()  # one of ours
    OUTSIDE = auto()  # no phone, but may use the codes: somebody on a trunk
    STRANGER = auto()  # may not


@dataclass(frozen=True, slots=True)
class Caller:
    """``extension`` is where the caller sits, "" when that is not known; ``number`` the caller ID.

    ``interface`` names the channel's endpoint, such as ``PJSIP/1001``; "" behind a Local channel
    whose caller is not known. ``ruled``: a device rule makes a phone of the endpoint; ``at_home``:
    Asterisk says that its calls begin in the phones' context. ``why`` says for the log why a
    stranger is one.
    """

    standing: Standing
    extension: str = ""
    number: str = ""
    interface: str = ""
    ruled: bool = False
    why: str = ""
    context: str = ""  # that the call came from, where it was asked for
    at_home: bool = False
    sent: bool = False  # by somebody else: it was transferred or forwarded to the code

    @property
    def endpoint(self) -> str:
        return self.interface.partition("/")[2]

    @property
    def technology(self) -> str:
        return self.interface.partition("/")[0]


def entry(text: str) -> str | tuple[str, Pattern]:
    """One of ``login.from``: a context, or ``PJSIP/trunk`` and ``PJSIP/_2XX`` for endpoints.

    Raises ValueError saying what is wrong.
    """
    technology, slash, name = text.partition("/")
    if not slash:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,79}", text, re.ASCII):
            raise ValueError(f"{text!r} is neither a context nor an endpoint, such as PJSIP/trunk")
        return text
    if not technology.isascii() or not technology.isalnum() or technology.lower() == "local":
        raise ValueError(f"{text!r} is no endpoint, such as PJSIP/trunk")
    if name.startswith("_"):
        return technology.lower(), Pattern.parse(name)
    if not is_extension(name):
        raise ValueError(f"{text!r} is no endpoint, such as PJSIP/trunk or PJSIP/_2XX")
    return technology.lower(), Pattern.exactly(name)


def access(rules: Sequence[DeviceRule], by_endpoint: bool, listed: Sequence[str]) -> Access:
    """Raises ValueError."""
    entries = [entry(text) for text in listed]
    return Access(
        tuple(rules),
        by_endpoint,
        frozenset(one for one in entries if isinstance(one, str)),
        tuple(one for one in entries if not isinstance(one, str)),
    )


def who_calls(
    channel: str, context: str, number: str, access: Access, sent_by: str = ""
) -> Questions:
    """Yields what is to be asked of Asterisk, takes the answers, returns the Caller.

    ``channel``, ``context`` and ``number`` are those of the call as Asterisk tells them, and
    ``sent_by`` is what it makes of SENT_BY. Of a call from one of our phones nothing is asked.
    """
    number = number if is_extension(number) and number != "unknown" else ""
    local = _LOCAL.fullmatch(channel)
    if sent_by:
        return (yield from _sent(channel, context, number, access, sent_by))
    if local is None:
        return (yield from _by_channel(channel, context, number, access, direct=True))
    if local["half"] == "2":
        # The half that runs the dialplan for whoever dialled the other one.
        for question in (TRANSFERER, FIRST_CHANNEL):
            behind = yield question
            if behind and not _LOCAL.fullmatch(behind):
                if question is FIRST_CHANNEL and (sent_by := (yield FIRST_SENT_BY)):
                    return (yield from _sent(behind, context, number, access, sent_by))
                return (yield from _by_channel(behind, context, number, access, direct=False))
        if behind in ("", channel):
            return _stranger("a Local channel, and whoever called it is not known", number)
        sits_at = number  # made by a program in Asterisk, in the name of this number
        if (device := resolve(access.rules, number)) is None or device.type != "local":
            sits_at = ""
    else:
        # The half that is spoken into by whoever was called through it, as click-to-dial does.
        dialled = local["dialled"]
        sits_at = dialled if resolve(access.rules, dialled) else ""
    context = yield from _context(context)
    if context in access.phone_contexts | access.contexts:
        return Caller(Standing.PHONE, sits_at, number, context=context)
    return _stranger("a Local channel from a context that is not listed", number, context)


def _sent(channel: str, context: str, number: str, access: Access, sent_by: str) -> Questions:
    """A phone that somebody has transferred to a code, or whose call was forwarded there, has not
    dialled it. Who is asked for number and PIN anyway may be sent there, as by a switchboard."""
    technology, endpoint = channel.partition("/")[0], endpoint_of(channel)
    if not _LOCAL.fullmatch(channel) and not extension_of(technology, endpoint, access.rules):
        context = yield from _context(context)
        if access.lists(technology, endpoint) or context in access.contexts:
            interface = f"{technology}/{endpoint}"
            return Caller(Standing.OUTSIDE, "", number, interface, context=context, sent=True)
    why = f"the call was sent to the code by {sent_by}: only who dials it is known for certain"
    return replace(_stranger(why, number, context), sent=True)


def _by_channel(
    channel: str, context: str, number: str, access: Access, *, direct: bool
) -> Questions:
    """``direct``: the call runs in this channel, not in a Local one that was called from it."""
    technology, endpoint = channel.partition("/")[0], endpoint_of(channel)
    interface = f"{technology}/{endpoint}"
    own = extension_of(technology, endpoint, access.rules)
    if own:
        return Caller(
            Standing.PHONE, own if access.by_endpoint else number, number, interface, True
        )
    # In endpoint mode a caller ID tells the outside number that somebody calls from, but never a
    # phone in the house: those do not call over a trunk.
    seat = number
    if access.by_endpoint:
        device = resolve(access.rules, number)
        seat = number if device is not None and device.type == "remote" else ""
    if access.lists(technology, endpoint):
        return Caller(Standing.OUTSIDE, seat, number, interface)
    context = yield from _context(context)
    if direct and context in access.contexts:
        return Caller(Standing.OUTSIDE, seat, number, interface, context=context)
    phones = access.phone_contexts
    if not direct or context in phones:
        # An inbound context may hand its callers on to the phones' one: what counts is where the
        # calls of this endpoint begin.
        begins_in, question = "", CONFIGURED_IN.get(technology.upper())
        if question and is_extension(endpoint) and not _is_anybody(endpoint):
            begins_in = yield question.format(endpoint)
        if begins_in in phones:
            extension = endpoint if access.by_endpoint else number
            return Caller(
                Standing.PHONE, extension, number, interface, context=context, at_home=True
            )
    return Caller(
        Standing.STRANGER,
        endpoint if access.by_endpoint and is_extension(endpoint) else number,
        number,
        interface,
        why="neither a device rule makes a phone of the endpoint, nor is it or its context listed",
        context=context,
    )


def _stranger(why: str, number: str, context: str = "") -> Caller:
    return Caller(Standing.STRANGER, "", number, why=why, context=context)


def _context(context: str) -> Generator[str, str, str]:
    return (yield CAME_FROM) if context == CALL_CONTEXT else context


def extension_of(technology: str, endpoint: str, rules: Sequence[DeviceRule]) -> str:
    """The extension of the phone that this endpoint is: its name, or that of the rule with this
    very interface or state interface, such as ``PJSIP/alice-desk`` for 201. "" where it is no
    phone."""
    if _is_anybody(endpoint):
        return ""
    device = resolve(rules, endpoint)
    if device is not None and device.type == "local" and may_be(device, technology, endpoint):
        return endpoint
    interface = f"{technology}/{endpoint}"
    for rule in rules:
        if rule.type == "local" and (
            extension := rule.extension_of(interface) or rule.extension_of_state(interface)
        ):
            return extension
    return ""


def _is_anybody(endpoint: str) -> bool:
    """PJSIP's endpoint for whoever calls without an account."""
    return endpoint.lower() == "anonymous"


def phone_of(device: Device) -> tuple[str, str]:
    """Technology and endpoint of the phone behind this device, as far as can be told: nothing of a
    Local channel without more, and no endpoint where the interface has more than its name."""
    for interface in (device.interface, device.state_interface):
        technology, slash, endpoint = interface.partition("/")
        if slash and technology.lower() != "local":
            return technology, endpoint if is_extension(endpoint) else ""
    return "", ""


def may_be(device: Device, technology: str, endpoint: str = "") -> bool:
    """Whether the phone behind this device may call as this endpoint: a trunk ``IAX2/1001`` is not
    the phone ``PJSIP/1001``, and ``PJSIP/201`` is not ``PJSIP/alice-desk``, whose extension is 201.
    """
    its, name = phone_of(device)
    if its.lower() not in ("", technology.lower()):
        return False
    return not endpoint or name.lower() in ("", endpoint.lower())


def device_of_caller(caller: Caller, rules: Sequence[DeviceRule], asterisk: str) -> Device | None:
    """The queue member that the caller's phone is.

    The first rule that matches the extension, unless that is plainly another phone with the same
    extension, in another context, and a further rule has the caller's very interface.
    """
    first = resolve(rules, caller.extension, asterisk)
    own = caller.interface.lower()
    if first is None or not own or first.interface.lower() in (own, ""):
        return first
    if first.interface.lower().startswith("local/"):
        return first
    for rule in rules:
        if rule.type == "local" and rule.extension_of(caller.interface) == caller.extension:
            return rule.device(caller.extension, asterisk)
    return first


_NUMBER = re.compile(r"\+?[0-9]*[1-9][0-9]*")


def tells_apart(number: str) -> bool:
    """Whether this caller ID is one caller's. Who withholds the number shows ``anonymous``, ``0``
    or another word that many share."""
    return _NUMBER.fullmatch(number) is not None
