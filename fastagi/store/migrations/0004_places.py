"""Where agents have proved their PIN before, and the outside numbers at which they may log in."""

import peewee as pw


def up(migrator, db):  # type: ignore[no-untyped-def]
    db.execute_sql("ALTER TABLE agents ADD COLUMN outside TEXT NOT NULL DEFAULT ''")

    class UsualPlace(pw.Model):
        key = pw.TextField(primary_key=True)
        until = pw.DoubleField()

        class Meta:
            database = db
            table_name = "usual_places"

    db.create_tables([UsualPlace], safe=False)
