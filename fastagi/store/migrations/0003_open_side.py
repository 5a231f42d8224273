"""Hooks of other programs, and what they know of agents, queues and pauses.

Columns are added with a constant default, which rewrites no row in either database.
"""

import peewee as pw
from playhouse.sqlite_ext import AutoIncrementField

COLUMNS = (
    ("events", "device_type", "TEXT NOT NULL DEFAULT 'local'"),
    ("agents", "login", "TEXT"),
    ("agents", "password_hash", "TEXT"),
    ("agents", "enabled", "BOOLEAN NOT NULL DEFAULT TRUE"),
    ("queues", "call_center", "BOOLEAN NOT NULL DEFAULT TRUE"),
    ("pause_reasons", "type", "TEXT NOT NULL DEFAULT ''"),
)


def up(migrator, db):  # type: ignore[no-untyped-def]
    sqlite = isinstance(db, pw.SqliteDatabase)
    # What is under way for a hook that is deleted must never be taken for another's.
    never_again = AutoIncrementField if sqlite else pw.AutoField

    for table, column, definition in COLUMNS:
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column} {definition}")

    class Table(pw.Model):
        class Meta:
            database = db

    class Agent(Table):
        id = pw.AutoField()

        class Meta:
            table_name = "agents"

    class Queue(Table):
        id = pw.AutoField()

        class Meta:
            table_name = "queues"

    class Event(Table):
        seq = pw.BigAutoField()

        class Meta:
            table_name = "events"

    class Hook(Table):
        id = never_again(primary_key=True)
        client = pw.TextField()
        agent = pw.ForeignKeyField(Agent, on_update="CASCADE")
        agent_type = pw.TextField()
        event_type = pw.TextField()
        method = pw.TextField()
        url = pw.TextField()
        content_type = pw.TextField()
        created_at = pw.DoubleField()

        class Meta:
            table_name = "hooks"

    class HookDelivery(Table):
        hook = pw.ForeignKeyField(Hook, column_name="hook", on_delete="CASCADE", index=False)
        event = pw.ForeignKeyField(Event, column_name="event", index=False)
        due_at = pw.DoubleField(constraints=[pw.SQL("DEFAULT 0")])
        attempts = pw.IntegerField(constraints=[pw.SQL("DEFAULT 0")])
        error = pw.TextField(null=True)
        parked_at = pw.DoubleField(null=True)
        leased_until = pw.DoubleField(constraints=[pw.SQL("DEFAULT 0")])
        leased_by = pw.TextField(null=True)

        class Meta:
            table_name = "hook_deliveries"
            primary_key = pw.CompositeKey("hook", "event")
            without_rowid = sqlite

    class HookAttempt(Table):
        id = pw.BigAutoField() if not sqlite else pw.AutoField()
        hook = pw.ForeignKeyField(Hook, column_name="hook", on_delete="CASCADE", index=False)
        event_id = pw.TextField()
        event_type = pw.TextField()
        at = pw.DoubleField()
        number = pw.IntegerField()
        status = pw.IntegerField(null=True)
        error = pw.TextField()
        seconds = pw.DoubleField()
        outcome = pw.TextField()

        class Meta:
            table_name = "hook_attempts"
            indexes = ((("hook", "id"), False),)

    class QueuePause(Table):
        queue = pw.ForeignKeyField(Queue, on_update="CASCADE", index=False)
        code = pw.TextField()
        limit_duration = pw.DoubleField(null=True)
        automatic_unpause = pw.BooleanField()
        disable_unpause = pw.BooleanField()

        class Meta:
            table_name = "queue_pauses"
            primary_key = pw.CompositeKey("queue", "code")
            without_rowid = sqlite

    db.create_tables([Hook, HookDelivery, HookAttempt, QueuePause], safe=False)
    for statement in (
        "CREATE UNIQUE INDEX agents_login ON agents (login) WHERE login IS NOT NULL",
        # A hook's first delivery, however many of its others were given up.
        "CREATE INDEX hook_deliveries_waiting ON hook_deliveries (hook, event)"
        " WHERE parked_at IS NULL",
        "CREATE INDEX hook_deliveries_held ON hook_deliveries (due_at)"
        " WHERE due_at > 0 AND parked_at IS NULL",
        "CREATE INDEX hook_deliveries_parked ON hook_deliveries (hook) WHERE parked_at IS NOT NULL",
    ):
        db.execute_sql(statement)
    if not sqlite:
        db.execute_sql(
            "CREATE INDEX hook_deliveries_leased ON hook_deliveries (hook) WHERE leased_until > 0"
        )
