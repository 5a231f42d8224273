"""Every name another system sees.

Admins write these names in dialplans, integrators compare them in programs, reports group by
them. Changing one is a breaking change; a name is added here first and used elsewhere after.
"""

from enum import StrEnum


class Source(StrEnum):
    """Who caused a fact."""

    PHONE = "phone"
    API = "api"
    ASTERISK = "asterisk"
    SYSTEM = "system"


class Script(StrEnum):
    """AGI scripts: ``agi://HOST:4573/<script>``, first argument the digits dialled after it."""

    LOGIN = "agent/login"
    LOGOFF = "agent/logoff"
    PAUSE = "agent/pause"
    UNPAUSE = "agent/unpause"
    STATUS = "agent/status"
    QUEUE = "agent/queue"
    TOGGLE_LOGIN = "agent/toggle-login"
    TOGGLE_PAUSE = "agent/toggle-pause"


# Nothing can be dialled after these: *345 is a slip of the finger, not *34.
WITHOUT_DIGITS = frozenset({Script.UNPAUSE, Script.STATUS})


class Variable(StrEnum):
    """Channel variables set at the end of every call, ``AGENT_STATUS`` last."""

    STATUS = "AGENT_STATUS"
    NUMBER = "AGENT_NUMBER"
    EXTENSION = "AGENT_EXTENSION"
    PAUSE_REASON = "AGENT_PAUSE_REASON"


class Outcome(StrEnum):
    """The value of ``AGENT_STATUS``. Every one has a spoken answer of its own."""

    # done
    LOGGED_IN = "LOGGED_IN"
    ALREADY_LOGGED_IN = "ALREADY_LOGGED_IN"  # on this very extension: success, nothing changed
    MOVED = "MOVED"  # was on another extension, is on this one now
    LOGGED_OFF = "LOGGED_OFF"
    LOGOFF_AFTER_CALL = "LOGOFF_AFTER_CALL"  # noted; happens when the queue call ends
    PAUSED = "PAUSED"
    PAUSE_AFTER_CALL = "PAUSE_AFTER_CALL"  # noted; begins when the queue call ends
    ALREADY_PAUSED = "ALREADY_PAUSED"  # for this very reason
    PAUSE_REASON_CHANGED = "PAUSE_REASON_CHANGED"
    UNPAUSED = "UNPAUSED"
    NOT_PAUSED = "NOT_PAUSED"  # unpause, and was available anyway
    STATUS_TOLD = "STATUS_TOLD"
    QUEUE_JOINED = "QUEUE_JOINED"
    QUEUE_LEFT = "QUEUE_LEFT"
    # refused
    NO_INPUT = "NO_INPUT"  # nothing usable was entered, several times
    NO_SUCH_AGENT = "NO_SUCH_AGENT"
    WRONG_PIN = "WRONG_PIN"
    AGENT_LOCKED = "AGENT_LOCKED"  # too many wrong PINs for this agent
    EXTENSION_LOCKED = "EXTENSION_LOCKED"  # too many wrong PINs from this extension
    NO_SUCH_EXTENSION = "NO_SUCH_EXTENSION"  # no device rule makes a queue member of it
    NUMBER_NOT_ALLOWED = "NUMBER_NOT_ALLOWED"  # an outside number: not this agent's, or no PIN
    NOT_FROM_HERE = "NOT_FROM_HERE"  # neither a phone nor in login.from: may not use the codes
    EXTENSION_IN_USE = "EXTENSION_IN_USE"  # another agent is logged in there
    LOGGED_IN_ELSEWHERE = "LOGGED_IN_ELSEWHERE"  # not moved: refused or not confirmed
    NOT_LOGGED_IN = "NOT_LOGGED_IN"
    IN_CALL = "IN_CALL"  # log-off refused until the queue call has ended
    NO_SUCH_REASON = "NO_SUCH_REASON"
    PAUSE_SPENT = "PAUSE_SPENT"  # the day's budget of this reason is used up
    PAUSE_LOCKED = "PAUSE_LOCKED"  # a pause that the agent may not end before its time
    NO_SUCH_QUEUE = "NO_SUCH_QUEUE"
    NOT_A_MEMBER = "NOT_A_MEMBER"  # the queue is none of this agent's
    LAST_IN_QUEUE = "LAST_IN_QUEUE"  # stayed: leaving would empty the queue and was not confirmed
    QUEUE_REFUSED = "QUEUE_REFUSED"  # Asterisk refused, for example: no such queue there
    UNAVAILABLE = "UNAVAILABLE"  # Asterisk's manager link or the store is away: try again
    BUSY = "BUSY"  # more calls at once than the service takes


class Planned(StrEnum):
    """What happens when the agent's present queue call ends: ``planned`` in every answer."""

    NOTHING = ""
    LOG_OFF = "log off"
    PAUSE = "pause"


class EventType(StrEnum):
    """What happened, as stored, printed and delivered."""

    LOGIN = "agent-login"
    LOGOUT = "agent-logout"
    PAUSE = "agent-pause"
    UNPAUSE = "agent-unpause"
    QUEUE_JOIN = "queue-join"
    QUEUE_LEAVE = "queue-leave"
    QUEUE_PENALTY = "queue-penalty"  # reason: the new penalty
    # The agent is not in these queues, as Asterisk lacks them, and joins when they are there.
    QUEUE_MISSING = "queue-missing"
    # queues.conf or a realtime table keeps the member in these queues: a log-off pauses it there.
    QUEUE_STATIC = "queue-static"
    PAUSE_EXCEEDED = "pause-exceeded"  # a pause lasts longer than its reason allows
    LOGIN_REFUSED = "login-refused"
    REPAIR = "repair"  # the store and Asterisk were brought together; reason: what was done


class Sink(StrEnum):
    """Where an event is delivered."""

    USER_EVENT = "user_event"
    QUEUE_LOG = "queue_log"
    LAMP = "lamp"


MEMBER_NAME = "Agent/{number}"
LOGIN_LAMP = "Custom:agent-{number}"  # INUSE while logged in, else NOT_INUSE
PAUSE_LAMP = "Custom:pause-{number}"  # INUSE while paused, else NOT_INUSE

FEATURES_CONTEXT = "agent-features"
HINTS_CONTEXT = "agent-features-hints"
CALL_CONTEXT = "agent-features-call"  # the subroutine that calls us

USER_EVENT = "AgentFeature"
USER_EVENT_KEYS = (
    "Type",
    "Agent",
    "Extension",
    "Queues",
    "Reason",
    "Source",
    "EventId",
    "OccurredAt",
)
EVENT_FIELDS = (
    "id",
    "type",
    "agent",
    "extension",
    "queues",
    "reason",
    "source",
    "actor",
    "occurred_at",
)

# The pause reason of a static or realtime member whose agent is logged off, or has left the queue.
LOGGED_OFF = "logged-off"
DEVICE_LOST = "device-lost"  # the system's pause reason while an agent's phone is away
SYSTEM_REASONS = frozenset({DEVICE_LOST, "wrapup", "missed", "callback"})

# Where the fallback leaves notes of what it did while the service was away (Asterisk's database).
NOTES_FAMILY = "fastagi"

RECONCILE = "service/reconcile"  # an AGI script for `fastagi reconcile`, …
REPAIRS = "FASTAGI_REPAIRS"  # … and the variable that tells what it did
RELOAD = "service/reload"  # the same for `fastagi reload`; the argument "confirm" confirms
RELOADED = "FASTAGI_RELOAD"  # what became of it; FASTAGI_RELOAD_1 and so on have a line each
LINKS = "service/links"  # an AGI script for `fastagi agents`, …
LINKED = "FASTAGI_LINKED"  # … and the variable: "store=usable asterisk=NAME", what is not away

# What other programs can have told to them, event by event, over HTTP.
HOOK_TYPES = (EventType.LOGIN, EventType.LOGOUT, EventType.PAUSE, EventType.UNPAUSE)


class HookField(StrEnum):
    """What a hook's receiver finds in the query, the form or the JSON object."""

    AGENT_ID = "agent_id"
    AGENT_STATUS = "agent_status"
    AGENT_TYPE = "agent_type"  # local | remote
    AGENT_NUMBER = "agent_number"  # remote agents: the outside number
    EXTENSION_NAME = "extension_name"  # local agents: extension@context
    EVENT_SOURCE = "event_source"
    PAUSE_REASON = "pause_reason"  # of pauses and their ends alone


class HookStatus(StrEnum):
    """``agent_status``."""

    AVAILABLE = "available"
    LOGGED_OUT = "logged_out"
    PAUSED = "paused"


METRIC_REPAIRS = "fastagi_repairs"  # _total is added by the format
METRIC_CALLS = "fastagi_calls"  # by script and outcome
METRIC_CALL_SECONDS = "fastagi_call_seconds"  # until the answer is spoken, by script
METRIC_REQUESTS = "fastagi_http_requests"  # by face and status
METRIC_AMI_SECONDS = "fastagi_ami_action_seconds"  # by Asterisk
METRIC_AMI_CONNECTED = "fastagi_ami_connected"  # by Asterisk, 1 or 0
METRIC_AGENTS = "fastagi_agents"  # by state
METRIC_OUTBOX = "fastagi_outbox_deliveries"  # by sink: what waits
METRIC_OUTBOX_AGE = "fastagi_outbox_oldest_seconds"  # by sink
METRIC_PARKED = "fastagi_outbox_parked"  # by sink
METRIC_HOOKS = "fastagi_hook_deliveries"  # by what became of them
METRIC_LISTENERS = "fastagi_event_listeners"
METRIC_STORE = "fastagi_store_up"  # 1 while it can be written, or 0
METRIC_STORE_LOG = "fastagi_store_wal_bytes"  # SQLite's -wal file
METRIC_DROPPED = "fastagi_outbox_dropped"  # parked deliveries deleted, by sink
METRIC_FAULTS = "fastagi_faults"  # by task: what it met, skipped and went on

QUEUE_LOG_LOGIN = "AGENTCALLBACKLOGIN"
QUEUE_LOG_LOGOFF = "AGENTCALLBACKLOGOFF"
