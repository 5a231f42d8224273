"""The tables as they are after the last migration. The models never leave this room.

They are bound to no database: every query names the one it is executed on. Moments are seconds
since 1970-01-01 UTC in double precision, which holds microseconds.
"""

from peewee import (
    AutoField,
    BigAutoField,
    BooleanField,
    CompositeKey,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


class Table(Model):
    class Meta:
        legacy_table_names = False


class Agent(Table):
    id = AutoField()
    number = TextField(unique=True)
    name = TextField()
    language = TextField()
    pin_hash = TextField(null=True)
    logoff_at = TextField(null=True)  # "18:30" or "never"; null: as everybody
    origin = TextField()  # yaml | api
    archived_at = DoubleField(null=True)
    login = TextField(null=True)  # unique; null: the number
    password_hash = TextField(null=True)
    enabled = BooleanField(default=True)  # one who is not is archived, too
    outside = TextField(default="")  # patterns of outside numbers, a blank between them

    class Meta:
        table_name = "agents"


class Queue(Table):
    id = AutoField()
    number = TextField()  # unique among the queues that are not archived
    name = TextField(unique=True)
    origin = TextField()
    archived_at = DoubleField(null=True)
    call_center = BooleanField(default=True)

    class Meta:
        table_name = "queues"


class Membership(Table):
    """A row is archived, never deleted: an agent may still be in the queue and has to leave it.

    What is its ``own`` somebody changed in Asterisk; null as soon as the agent leaves the queue.
    """

    agent = ForeignKeyField(Agent, on_update="CASCADE")
    queue = ForeignKeyField(Queue, on_update="CASCADE")
    penalty = IntegerField(default=0)
    joined = BooleanField(default=False)
    # yaml | api: added, or archived, by a program | asterisk: none of the agent's queues, somebody
    # put the agent in; always archived
    origin = TextField(default="yaml")
    own_penalty = IntegerField(null=True)
    own_paused = BooleanField(null=True)
    own_reason = TextField(null=True)
    archived_at = DoubleField(null=True)

    class Meta:
        table_name = "memberships"
        primary_key = CompositeKey("agent", "queue")


class PauseReason(Table):
    id = AutoField()
    code = TextField(unique=True)
    name = TextField()
    description = TextField()
    productive = BooleanField()
    max_duration = DoubleField(null=True)  # seconds
    daily_budget = DoubleField(null=True)  # seconds
    when_exceeded = TextField(null=True)
    type = TextField(default="")
    origin = TextField()
    archived_at = DoubleField(null=True)

    class Meta:
        table_name = "pause_reasons"


class QueuePause(Table):
    """What a queue says of a pause reason."""

    queue = ForeignKeyField(Queue, on_update="CASCADE")
    code = TextField()
    limit_duration = DoubleField(null=True)  # seconds
    automatic_unpause = BooleanField(default=False)
    disable_unpause = BooleanField(default=False)

    class Meta:
        table_name = "queue_pauses"
        primary_key = CompositeKey("queue", "code")


class DeviceInUse(Table):
    """Whose a device is: claimed with the intent of a login, kept as long as the session."""

    interface = TextField(primary_key=True)  # Device.key
    agent = ForeignKeyField(Agent, on_update="CASCADE")

    class Meta:
        table_name = "devices_in_use"


class LoginSession(Table):
    id = TextField(primary_key=True)
    agent = ForeignKeyField(Agent, on_update="CASCADE")
    extension = TextField()
    context = TextField()
    interface = TextField()
    state_interface = TextField()
    type = TextField()
    asterisk = TextField(default="")
    since = DoubleField()
    source = TextField()
    planned = TextField(null=True)  # a LogOff or Pause that waits for the end of the queue call
    ended_at = DoubleField(null=True)
    ended_how = TextField(null=True)
    ended_source = TextField(null=True)

    class Meta:
        table_name = "login_sessions"


class PauseSegment(Table):
    id = TextField(primary_key=True)
    agent = ForeignKeyField(Agent, on_update="CASCADE")
    code = TextField()
    name = TextField()
    since = DoubleField()
    source = TextField()
    ended_at = DoubleField(null=True)
    ended_how = TextField(null=True)
    ended_source = TextField(null=True)

    class Meta:
        table_name = "pause_segments"


class Event(Table):
    """``agent`` is the number as dialled: a refused login may name an agent who does not exist."""

    seq = BigAutoField()
    id = TextField(unique=True)
    type = TextField()
    agent = TextField()
    extension = TextField()
    context = TextField()
    queues = TextField()  # JSON list
    reason = TextField()
    source = TextField()
    actor = TextField()  # JSON object
    occurred_at = DoubleField()
    session_seconds = IntegerField()
    asterisk = TextField(default="")
    in_part = BooleanField(default=False)
    device_type = TextField(default="local")

    class Meta:
        table_name = "events"


class Delivery(Table):
    """One event owed to one sink. Gone when delivered."""

    sink = TextField()
    event = ForeignKeyField(Event, column_name="event")
    agent = TextField()
    due_at = DoubleField(default=0)  # 0: at once; later when postponed
    attempts = IntegerField(default=0)
    error = TextField(null=True)
    parked_at = DoubleField(null=True)
    leased_until = DoubleField(default=0)  # both: only read by services up to 0.3
    leased_by = TextField(null=True)

    class Meta:
        table_name = "deliveries"
        primary_key = CompositeKey("sink", "event")


class Hook(Table):
    """Its deliveries and attempts go with it."""

    id = BigAutoField()
    client = TextField()
    agent = ForeignKeyField(Agent, on_update="CASCADE")
    agent_type = TextField()
    event_type = TextField()
    method = TextField()
    url = TextField()
    content_type = TextField()
    created_at = DoubleField()

    class Meta:
        table_name = "hooks"


class HookDelivery(Table):
    """One event owed to one hook. Gone when delivered."""

    hook = ForeignKeyField(Hook, column_name="hook", on_delete="CASCADE")
    event = ForeignKeyField(Event, column_name="event")
    due_at = DoubleField(default=0)
    attempts = IntegerField(default=0)
    error = TextField(null=True)
    parked_at = DoubleField(null=True)
    leased_until = DoubleField(default=0)  # both: only read by services up to 0.3
    leased_by = TextField(null=True)

    class Meta:
        table_name = "hook_deliveries"
        primary_key = CompositeKey("hook", "event")


class HookAttempt(Table):
    """The delivery log: the latest of each hook."""

    id = BigAutoField()
    hook = ForeignKeyField(Hook, column_name="hook", on_delete="CASCADE")
    event_id = TextField()
    event_type = TextField()
    at = DoubleField()
    number = IntegerField()
    status = IntegerField(null=True)
    error = TextField()
    seconds = DoubleField()
    outcome = TextField()

    class Meta:
        table_name = "hook_attempts"


class Intent(Table):
    """A decided change that is not confirmed yet: at most one per agent."""

    agent = ForeignKeyField(Agent, primary_key=True, on_update="CASCADE")
    command_id = TextField()
    command = TextField()  # JSON
    decided_at = DoubleField()
    owner = TextField(default="")  # the service that is at it …
    owned_at = DoubleField(default=0)  # … since then

    class Meta:
        table_name = "intents"


class PinFailure(Table):
    """Moments here are those of ``AgentService.steady``, which never steps."""

    id = AutoField()
    key = TextField()
    at = DoubleField()

    class Meta:
        table_name = "pin_failures"


class UsualPlace(Table):
    """An agent has proved the PIN there; ``key`` is the ``own`` one of ``lockout.Keys``."""

    key = TextField(primary_key=True)
    until = DoubleField()  # likewise

    class Meta:
        table_name = "usual_places"


class Note(Table):
    key = TextField(primary_key=True)
    value = TextField()

    class Meta:
        table_name = "notes"


TABLES: tuple[type[Table], ...] = (
    Agent,
    Queue,
    Membership,
    PauseReason,
    QueuePause,
    DeviceInUse,
    LoginSession,
    PauseSegment,
    Event,
    Delivery,
    Hook,
    HookDelivery,
    HookAttempt,
    Intent,
    PinFailure,
    UsualPlace,
    Note,
)
