"""The settings: frozen, typed, one class per section of the YAML."""

from collections.abc import Mapping
from datetime import timedelta, tzinfo
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fastagi.agents.callers import entry
from fastagi.agents.commands import WhenInCall
from fastagi.agents.devices import DeviceRule, DeviceType, Pattern
from fastagi.agents.limits import WhenExceeded
from fastagi.agents.lockout import Lockout
from fastagi.config.problems import Problem
from fastagi.config.values import (
    AsteriskId,
    Code,
    Context,
    DatabaseUrl,
    Duration,
    FilePath,
    HookSecret,
    Host,
    HostPort,
    HostPortValue,
    Id,
    Language,
    Limit,
    LoginName,
    Network,
    NetworkValue,
    Number,
    OrOff,
    PathForDialplan,
    Penalty,
    Pin,
    PinHash,
    PlainText,
    QueueName,
    ReasonCode,
    ReasonName,
    Secret,
    Sounds,
    TimeOfDay,
    TimeOrNever,
    Timeout,
    TimeZone,
    Token,
    Username,
    at_most,
    frozen_mapping,
    is_off,
    local_zone,
    network,
)
from fastagi.contract import Outcome, Script

ASTERISKS = "asterisks"  # the type of the error that there are none, or both kinds


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class FallbackSettings(Section):
    """The program that the dialplan runs while no server answers; both files are Asterisk's to
    read, on Asterisk's machine."""

    command: PathForDialplan
    facts: PathForDialplan


class FastAgiSettings(Section):
    """The FastAGI server that Asterisk calls."""

    listen: HostPortValue = HostPort("127.0.0.1", 4573)
    allow: tuple[NetworkValue, ...] = (network("127.0.0.0/8"), network("::1"))
    advertise: Annotated[HostPortValue | None, OrOff] = (
        None  # what the dialplan calls, where it is not `listen`
    )
    standby: tuple[HostPortValue, ...] = ()  # servers the dialplan tries when this one is away
    max_sessions: Annotated[int, Field(ge=1, le=1_000_000)] = 4000
    session_deadline: Timeout = timedelta(seconds=120)
    header_timeout: Timeout = timedelta(seconds=5)
    drain: Duration = timedelta(seconds=30)
    fallback: Annotated[FallbackSettings | None, OrOff] = (
        None  # None: the dialplan says "try again"
    )

    @property
    def advertised(self) -> HostPort:
        """What the dialplan calls: ``advertise``, else ``listen``, and loopback for "all"."""
        if self.advertise is not None:
            return self.advertise
        every = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return HostPort(every.get(self.listen.host, self.listen.host), self.listen.port)


class AsteriskSettings(Section):
    """The manager interface (AMI) of one Asterisk; ``name`` is "" where it is the only one."""

    name: AsteriskId = ""
    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 5038
    username: Username = "fastagi"
    secret: Secret
    timeout: Timeout = timedelta(seconds=5)


class Right(StrEnum):
    """What a client may do over HTTP."""

    READ = "read"
    CONTROL = "control"  # log agents in and off, pause and unpause them
    CONFIGURE = "configure"  # whose queues are whose, hooks


class ClientSettings(Section):
    """A program that talks to us, known by its token; its name is the actor in events."""

    token: Token
    rights: tuple[Right, ...] = (Right.READ, Right.CONTROL)


def _client(value: Any) -> Any:
    return {"token": value} if isinstance(value, str) else value


class TlsSettings(Section):
    """PEM files; ``certificate`` with its chain."""

    certificate: FilePath
    key: FilePath


class HttpLockoutSettings(Section):
    """So many wrong tokens from one address within this time: for that time more of them are
    answered late, and with 429. A right token is never refused."""

    failures: Annotated[int, Field(ge=1, le=1000)] = 10
    within: Timeout = timedelta(minutes=1)
    for_: Timeout = Field(default=timedelta(minutes=1), alias="for")

    def rule(self) -> Lockout:
        return Lockout(self.failures, self.within, self.for_)


class AgentPhpSettings(Section):
    """Nuclear Erix's agent.php, which knows no tokens of its own."""

    allow: tuple[NetworkValue, ...] = ()  # addresses that need no token
    token: Annotated[Token | None, OrOff] = None  # in the query, the form or the header ``token``


class CreatedAgentsSettings(Section):
    """Agents that another program creates."""

    first_number: Number = "9001"  # numbers are given from here on, unless the login is one
    password_is_pin: bool = False  # a password of digits alone is the PIN, too


class HttpSettings(Section):
    """The HTTP server. Without tokens everybody on this machine may do everything."""

    listen: HostPortValue = HostPort("127.0.0.1", 9493)
    tokens: Annotated[
        Mapping[PlainText, Annotated[ClientSettings, BeforeValidator(_client)]],
        AfterValidator(frozen_mapping),
    ] = Field(default_factory=lambda: frozen_mapping({}))
    tls: Annotated[TlsSettings | None, OrOff] = None
    lockout: HttpLockoutSettings = Field(default_factory=HttpLockoutSettings)
    max_body: Annotated[int, Field(ge=1024, le=2**26)] = 65536  # bytes
    max_listeners: Annotated[int, Field(ge=1, le=100_000)] = 1000  # of the event stream, at once
    proxies: tuple[NetworkValue, ...] = ()  # reverse proxies, whose X-Forwarded-For is believed
    names: tuple[Host, ...] = ()  # names of this service, beside its addresses and localhost
    agent_php: Annotated[AgentPhpSettings | None, OrOff] = None  # None: it is off
    created_agents: CreatedAgentsSettings = Field(default_factory=CreatedAgentsSettings)

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.listen.host == "localhost":
            return True
        try:
            return ip_address(self.listen.host).is_loopback
        except ValueError:
            return False


class WebhookSettings(Section):
    allow: tuple[NetworkValue, ...] = ()  # private networks that hooks may reach
    # Each client's secret is made of it (`fastagi hooks secret CLIENT`): that signs its deliveries.
    secret: Annotated[HookSecret | None, OrOff] = None
    shared_secret: bool = False  # `secret` itself signs them, too: for receivers that know that one
    # For one answer. Less than the minute for which a service has a delivery for itself.
    timeout: Annotated[Timeout, AfterValidator(at_most(timedelta(seconds=50)))] = timedelta(
        seconds=10
    )
    attempts: Annotated[int, Field(ge=1, le=100)] = 12  # then a delivery is parked


FeatureCode = Annotated[Code | None, OrOff]


class FeatureCodes(Section):
    """What agents dial; None: switched off."""

    login: FeatureCode = "*31"
    logoff: FeatureCode = "*32"
    pause: FeatureCode = "*33"
    unpause: FeatureCode = "*34"
    status: FeatureCode = "*35"
    queue: FeatureCode = "*36"
    toggle_login: FeatureCode = "*30"
    toggle_pause: FeatureCode = "*39"

    def by_script(self) -> dict[Script, str]:
        """The codes that are switched on."""
        codes = {script: getattr(self, script.name.lower()) for script in Script}
        return {script: code for script, code in codes.items() if code is not None}


class LockoutSettings(Section):
    """So many wrong PINs within this time lock for that time."""

    failures: Annotated[int, Field(ge=1, le=1000)] = 5
    within: Timeout = timedelta(minutes=15)
    for_: Timeout = Field(default=timedelta(minutes=15), alias="for")

    def rule(self) -> Lockout:
        return Lockout(self.failures, self.within, self.for_)


class ExtensionFrom(StrEnum):
    """Where a login without an extension takes it from."""

    ENDPOINT = "endpoint"
    CALLER_ID = "caller_id"


class AlreadyElsewhere(StrEnum):
    """What a login does when the agent is logged in on another extension."""

    ASK = "ask"
    MOVE = "move"
    REFUSE = "refuse"


class InUseByAnother(StrEnum):
    """What a login does when another agent is logged in on the extension."""

    REFUSE = "refuse"
    TAKE_OVER = "take_over"


class MissingQueue(StrEnum):
    """What a login does while Asterisk lacks one of the agent's queues."""

    SKIP = "skip"
    REFUSE = "refuse"


def _pattern(text: str) -> str:
    Pattern.parse(text)
    return text


def _outside(text: str) -> str:
    if any(char.isspace() for char in text):
        raise ValueError("blanks cannot stand in a number: write 0712345678")
    return _pattern(text)


def _caller(text: str) -> str:
    entry(text)
    return text


class LoginSettings(Section):
    """``from``: who may use the codes beside the phones: contexts, and endpoints such as
    ``PJSIP/trunk`` or ``PJSIP/_2XX``."""

    from_: tuple[Annotated[str, AfterValidator(_caller)], ...] = Field(default=(), alias="from")
    extension_from: ExtensionFrom = ExtensionFrom.ENDPOINT
    pin_tries: Annotated[int, Field(ge=1, le=20)] = 3
    lockout: LockoutSettings = Field(default_factory=LockoutSettings)
    already_elsewhere: AlreadyElsewhere = AlreadyElsewhere.ASK
    in_use_by_another: InUseByAnother = InUseByAnother.REFUSE
    logoff_in_call: WhenInCall = WhenInCall.AFTER_CALL
    missing_queue: MissingQueue = MissingQueue.SKIP


def _template(text: str) -> str:
    """An interface: data that goes into AMI lines, so what would end or split one is refused."""
    if text != text.strip() or any(not char.isprintable() for char in text):
        raise ValueError("blanks around it and control characters cannot stand in an interface")
    for char in ',|;&"\\ ':
        if char in text:
            raise ValueError(f"{char!r} cannot stand in an interface")
    rest = text.replace("{extension}", "")
    if "{" in rest or "}" in rest:
        raise ValueError("the only placeholder is {extension}")
    return text


def _interface(text: str) -> str:
    technology, slash, rest = _template(text).partition("/")
    if not slash or not technology.isalnum() or not rest:
        raise ValueError(f"{text!r} is no interface, such as PJSIP/{{extension}}")
    return text


class DeviceRuleSettings(Section):
    """One rule of how an extension becomes a queue member."""

    match: Annotated[str, AfterValidator(_pattern)]
    context: Context | None = None
    interface: Annotated[str, AfterValidator(_interface)]
    state_interface: Annotated[str, AfterValidator(_template)] | None = None
    type: DeviceType = "local"
    call_center: bool = True  # agent.php logs agents in at such extensions alone

    def rule(self) -> DeviceRule:
        return DeviceRule(
            pattern=Pattern.parse(self.match),
            context=self.context or "",
            interface=self.interface,
            state_interface=self.state_interface,
            type=self.type,
            call_center=self.call_center,
        )


class PauseSettings(Section):
    """What a pause does to an agent in a queue call."""

    when_in_call: WhenInCall = WhenInCall.ALLOW
    wrapup: Duration = timedelta(0)  # of 0.3 and before; has no effect any more


class UnpluggedSettings(Section):
    """What happens to an agent whose phone is gone for so long; None: nothing."""

    pause_after: Limit = timedelta(seconds=30)
    logoff_after: Limit = timedelta(minutes=10)


def _all_off(*names: str) -> BeforeValidator:
    """A section that is switched off as a whole: ``unplugged: off``."""

    def off(value: Any) -> Any:
        return dict.fromkeys(names) if is_off(value) else value

    return BeforeValidator(off)


class ShiftSettings(Section):
    """``logoff_at``: when everybody is logged off, ``HH:MM``; None: nobody is."""

    logoff_at: Annotated[TimeOfDay | None, OrOff] = None


class ReconcileSettings(Section):
    """How often the store is compared with Asterisk's queues beside every start and reconnect."""

    every: Limit = timedelta(seconds=60)


class MetricsSettings(Section):
    listen: Annotated[HostPortValue | None, OrOff] = None  # None: no metrics


class PauseReasonSettings(Section):
    id: Id | None = None
    code: ReasonCode
    name: ReasonName
    description: PlainText = ""
    productive: bool = False
    type: PlainText = ""  # a kind that reports group by, as the admin likes
    max_duration: Limit = None
    daily_budget: Limit = None  # the time a day that an agent may spend on it
    when_exceeded: WhenExceeded = WhenExceeded.WARN


class QueuePauseSettings(Section):
    """What a queue says of a pause reason, for the agents who have that queue."""

    reason: ReasonCode
    limit_duration: Limit = None
    automatic_unpause: bool = False
    disable_unpause: bool = False


class QueueSettings(Section):
    """A queue of Asterisk's; ``number`` is what agents dial for it."""

    id: Id | None = None
    number: Number
    name: QueueName
    description: PlainText = ""
    call_center: bool = True  # agent.php logs agents in to such queues alone
    pauses: tuple[QueuePauseSettings, ...] = ()


class AgentQueue(Section):
    name: str
    penalty: Penalty = 0


def _agent_queue(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class AgentSettings(Section):
    """An agent. ``language`` is filled in from the general one."""

    id: Id | None = None
    number: Number
    name: PlainText
    pin: Pin | None = None
    pin_hash: PinHash | None = None
    language: Language = "en"
    queues: tuple[Annotated[AgentQueue, BeforeValidator(_agent_queue)], ...] = ()
    logoff_at: TimeOrNever | None = None  # ``HH:MM``, "never", or None: as everybody
    login: LoginName | None = None  # the name other programs know the agent by; None: the number
    enabled: bool = True  # False: as if archived, and shown as not enabled
    # Outside numbers, or patterns of them, at which the agent may log in by phone; needs a PIN.
    outside: tuple[Annotated[str, AfterValidator(_outside)], ...] = ()


class Settings(Section):
    """Everything. ``agents`` is None when they were left out by ``load(agents=False)``."""

    fastagi: FastAgiSettings = Field(default_factory=FastAgiSettings)
    only_asterisk: AsteriskSettings | None = Field(default=None, alias="asterisk", repr=False)
    asterisks: tuple[AsteriskSettings, ...] = ()  # filled in from the only one
    database: DatabaseUrl = Field(default="sqlite:///fastagi.db", repr=False)
    http: Annotated[HttpSettings | None, OrOff] = None  # None: no HTTP
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    language: Language = "en"
    timezone: TimeZone | None = None  # None: the machine's
    feature_codes: FeatureCodes = Field(default_factory=FeatureCodes)
    login: LoginSettings = Field(default_factory=LoginSettings)
    devices: tuple[DeviceRuleSettings, ...] = ()
    prompts: Annotated[Mapping[Outcome, Sounds], AfterValidator(frozen_mapping)] = Field(
        default_factory=lambda: frozen_mapping({})
    )
    pause: PauseSettings = Field(default_factory=PauseSettings)
    pause_reasons: tuple[PauseReasonSettings, ...] = ()
    unplugged: Annotated[UnpluggedSettings, _all_off("pause_after", "logoff_after")] = Field(
        default_factory=UnpluggedSettings
    )
    shift: Annotated[ShiftSettings, _all_off("logoff_at")] = Field(default_factory=ShiftSettings)
    reconcile: Annotated[ReconcileSettings, _all_off("every")] = Field(
        default_factory=ReconcileSettings
    )
    metrics: Annotated[MetricsSettings, _all_off("listen")] = Field(default_factory=MetricsSettings)
    queues: tuple[QueueSettings, ...] = ()
    agents: tuple[AgentSettings, ...] | None = ()

    _fingerprint_material: bytes = PrivateAttr(default=b"")
    _sliceable: bool = PrivateAttr(default=False)
    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _fill_in_asterisks(self) -> Self:
        if (self.only_asterisk is None) == (not self.asterisks):
            raise PydanticCustomError(ASTERISKS, "one of asterisk and asterisks must be there")
        if self.only_asterisk is not None:
            # Before anybody sees the object: it is frozen from then on.
            self.__dict__["asterisks"] = (self.only_asterisk,)
        return self

    @property
    def asterisk(self) -> AsteriskSettings:
        """The only one, or the first of several."""
        return self.asterisks[0]

    def asterisk_named(self, name: str) -> AsteriskSettings:
        """Raises KeyError."""
        for asterisk in self.asterisks:
            if asterisk.name == name:
                return asterisk
        raise KeyError(name)

    @property
    def zone(self) -> tzinfo:
        """Where days begin and shifts end."""
        return ZoneInfo(self.timezone) if self.timezone is not None else local_zone()

    @property
    def fingerprint_material(self) -> bytes:
        """A digest of all files and all environment values they name: the same bytes, the same
        settings. It is made of secrets too, so it is kept salted and hashed hard, never as it is.
        """
        return self._fingerprint_material

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed, and hardly meant. Those of agents are not in a load without them."""
        return self._warnings

    @property
    def sliceable(self) -> bool:
        """A full load showed that leaving out the agents by line gives all else unchanged."""
        return self._sliceable

    def device_rules(self) -> tuple[DeviceRule, ...]:
        return tuple(device.rule() for device in self.devices)

    def languages(self) -> tuple[str, ...]:
        """Every language a prompt may be spoken in, the general one first."""
        spoken = dict.fromkeys([self.language, *(agent.language for agent in self.agents or ())])
        return tuple(spoken)


__all__ = [
    "AgentQueue",
    "AgentSettings",
    "AlreadyElsewhere",
    "AsteriskSettings",
    "ClientSettings",
    "DeviceRuleSettings",
    "ExtensionFrom",
    "FallbackSettings",
    "FastAgiSettings",
    "FeatureCodes",
    "HostPort",
    "HttpSettings",
    "InUseByAnother",
    "LockoutSettings",
    "LoginSettings",
    "MetricsSettings",
    "Network",
    "PauseReasonSettings",
    "PauseSettings",
    "QueueSettings",
    "ReconcileSettings",
    "Right",
    "SecretStr",
    "Settings",
    "ShiftSettings",
    "TlsSettings",
    "UnpluggedSettings",
    "WebhookSettings",
    "WhenExceeded",
]
