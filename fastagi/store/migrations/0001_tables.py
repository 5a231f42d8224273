"""The first tables. A migration keeps its own copy of the models: it must not change later."""

import peewee as pw
from playhouse.sqlite_ext import AutoIncrementField


def up(migrator, db):  # type: ignore[no-untyped-def]
    # An event's number must never be given twice. PostgreSQL's sequences promise that; of SQLite's
    # keys only AUTOINCREMENT does.
    never_again = AutoIncrementField if isinstance(db, pw.SqliteDatabase) else pw.BigAutoField

    class Table(pw.Model):
        class Meta:
            database = db

    class Agent(Table):
        id = pw.AutoField()
        number = pw.TextField(unique=True)
        name = pw.TextField()
        language = pw.TextField()
        pin_hash = pw.TextField(null=True)
        origin = pw.TextField()
        archived_at = pw.DoubleField(null=True)

        class Meta:
            table_name = "agents"

    class Queue(Table):
        id = pw.AutoField()
        number = pw.TextField()
        name = pw.TextField(unique=True)
        origin = pw.TextField()
        archived_at = pw.DoubleField(null=True)

        class Meta:
            table_name = "queues"

    class Membership(Table):
        agent = pw.ForeignKeyField(Agent, on_update="CASCADE", index=False)
        queue = pw.ForeignKeyField(Queue, on_update="CASCADE")
        penalty = pw.IntegerField()
        joined = pw.BooleanField()
        archived_at = pw.DoubleField(null=True)

        class Meta:
            table_name = "memberships"
            primary_key = pw.CompositeKey("agent", "queue")
            without_rowid = isinstance(db, pw.SqliteDatabase)

    class PauseReason(Table):
        id = pw.AutoField()
        code = pw.TextField(unique=True)
        name = pw.TextField()
        description = pw.TextField()
        productive = pw.BooleanField()
        max_duration = pw.DoubleField(null=True)
        when_exceeded = pw.TextField(null=True)
        origin = pw.TextField()
        archived_at = pw.DoubleField(null=True)

        class Meta:
            table_name = "pause_reasons"

    class DeviceInUse(Table):
        interface = pw.TextField(primary_key=True)
        agent = pw.ForeignKeyField(Agent, on_update="CASCADE")

        class Meta:
            table_name = "devices_in_use"
            without_rowid = isinstance(db, pw.SqliteDatabase)

    class LoginSession(Table):
        id = pw.TextField(primary_key=True)
        agent = pw.ForeignKeyField(Agent, on_update="CASCADE")
        extension = pw.TextField()
        context = pw.TextField()
        interface = pw.TextField()
        state_interface = pw.TextField()
        type = pw.TextField()
        since = pw.DoubleField()
        source = pw.TextField()
        planned = pw.TextField(null=True)
        ended_at = pw.DoubleField(null=True)
        ended_how = pw.TextField(null=True)
        ended_source = pw.TextField(null=True)

        class Meta:
            table_name = "login_sessions"
            without_rowid = isinstance(db, pw.SqliteDatabase)

    class PauseSegment(Table):
        id = pw.TextField(primary_key=True)
        agent = pw.ForeignKeyField(Agent, on_update="CASCADE")
        code = pw.TextField()
        name = pw.TextField()
        since = pw.DoubleField()
        source = pw.TextField()
        ended_at = pw.DoubleField(null=True)
        ended_how = pw.TextField(null=True)
        ended_source = pw.TextField(null=True)

        class Meta:
            table_name = "pause_segments"
            without_rowid = isinstance(db, pw.SqliteDatabase)

    class Event(Table):
        seq = never_again(primary_key=True)
        id = pw.TextField(unique=True)
        type = pw.TextField()
        agent = pw.TextField()
        extension = pw.TextField()
        context = pw.TextField()
        queues = pw.TextField()
        reason = pw.TextField()
        source = pw.TextField()
        actor = pw.TextField()
        occurred_at = pw.DoubleField()
        session_seconds = pw.IntegerField()

        class Meta:
            table_name = "events"
            indexes = ((("agent", "seq"), False),)

    class Delivery(Table):
        sink = pw.TextField()
        event = pw.ForeignKeyField(Event, column_name="event", index=False)
        agent = pw.TextField()
        due_at = pw.DoubleField(constraints=[pw.SQL("DEFAULT 0")])
        attempts = pw.IntegerField(constraints=[pw.SQL("DEFAULT 0")])
        error = pw.TextField(null=True)
        parked_at = pw.DoubleField(null=True)
        leased_until = pw.DoubleField(constraints=[pw.SQL("DEFAULT 0")])
        leased_by = pw.TextField(null=True)

        class Meta:
            table_name = "deliveries"
            # In this order a sink's rows lie together, in the order of their events.
            primary_key = pw.CompositeKey("sink", "event")
            without_rowid = isinstance(db, pw.SqliteDatabase)

    class Intent(Table):
        agent = pw.ForeignKeyField(Agent, primary_key=True, on_update="CASCADE")
        command_id = pw.TextField()
        command = pw.TextField()
        decided_at = pw.DoubleField()

        class Meta:
            table_name = "intents"

    class PinFailure(Table):
        id = pw.AutoField()
        key = pw.TextField()
        at = pw.DoubleField()

        class Meta:
            table_name = "pin_failures"
            indexes = ((("key", "at"), False),)

    class Note(Table):
        key = pw.TextField(primary_key=True)
        value = pw.TextField()

        class Meta:
            table_name = "notes"

    db.create_tables(
        [
            Agent,
            Queue,
            Membership,
            PauseReason,
            DeviceInUse,
            LoginSession,
            PauseSegment,
            Event,
            Delivery,
            Intent,
            PinFailure,
            Note,
        ],
        safe=False,
    )
    for statement in (
        "CREATE UNIQUE INDEX queues_live_number ON queues (number) WHERE archived_at IS NULL",
        # At most one open session and one open pause per agent; also how a state is loaded.
        "CREATE UNIQUE INDEX login_sessions_open ON login_sessions (agent_id)"
        " WHERE ended_at IS NULL",
        "CREATE UNIQUE INDEX pause_segments_open ON pause_segments (agent_id)"
        " WHERE ended_at IS NULL",
        # Most deliveries go out at once and never enter these.
        "CREATE INDEX deliveries_held ON deliveries (sink, agent) WHERE due_at > 0",
        "CREATE INDEX deliveries_parked ON deliveries (parked_at) WHERE parked_at IS NOT NULL",
    ):
        db.execute_sql(statement)
