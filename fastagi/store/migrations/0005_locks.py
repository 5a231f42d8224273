"""Who delivers is said by a lock, no more by leases in the rows.

The columns ``leased_until`` and ``leased_by`` stay, as a service of an earlier version may still be
running: it goes on with them, and delivers until it is stopped. Nothing else reads them.
"""

import peewee as pw


def up(migrator, db):  # type: ignore[no-untyped-def]
    if not isinstance(db, pw.SqliteDatabase):
        db.execute_sql("DROP INDEX deliveries_leased")
        db.execute_sql("DROP INDEX hook_deliveries_leased")
