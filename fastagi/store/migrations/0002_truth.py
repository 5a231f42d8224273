"""What Asterisk changed by itself, several Asterisks, several services, limits of pauses.

Columns are added with a constant default, which rewrites no row in either database.
"""

import peewee as pw

COLUMNS = (
    ("memberships", "origin", "TEXT NOT NULL DEFAULT 'yaml'"),
    ("memberships", "own_penalty", "INTEGER"),
    ("memberships", "own_paused", "BOOLEAN"),
    ("memberships", "own_reason", "TEXT"),
    ("login_sessions", "asterisk", "TEXT NOT NULL DEFAULT ''"),
    ("pause_reasons", "daily_budget", "DOUBLE PRECISION"),
    ("agents", "logoff_at", "TEXT"),
    ("events", "asterisk", "TEXT NOT NULL DEFAULT ''"),
    ("events", "in_part", "BOOLEAN NOT NULL DEFAULT FALSE"),
    ("intents", "owner", "TEXT NOT NULL DEFAULT ''"),
    ("intents", "owned_at", "DOUBLE PRECISION NOT NULL DEFAULT 0"),
)


def up(migrator, db):  # type: ignore[no-untyped-def]
    for table, column, definition in COLUMNS:
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column} {definition}")
    db.execute_sql(
        "UPDATE memberships SET origin = 'api'"
        " WHERE agent_id IN (SELECT id FROM agents WHERE origin = 'api')"
    )
    # How long an agent was paused today; hardly anything waits for the end of a call.
    db.execute_sql("CREATE INDEX pause_segments_ended ON pause_segments (agent_id, ended_at)")
    db.execute_sql(
        "CREATE INDEX login_sessions_planned ON login_sessions (agent_id)"
        " WHERE planned IS NOT NULL AND ended_at IS NULL"
    )
    if not isinstance(db, pw.SqliteDatabase):
        # On SQLite nothing is ever leased.
        db.execute_sql(
            "CREATE INDEX deliveries_leased ON deliveries (sink, agent) WHERE leased_until > 0"
        )
