"""What the configuration, as it stands in its files, would do if the service read it now."""

from collections.abc import Iterator

from fastagi.agents.protection import losses
from fastagi.agents.service import StoreUnavailable
from fastagi.check.findings import Finding, problem, some, warning
from fastagi.config import Settings
from fastagi.store import BadDatabaseUrl, Reading
from fastagi.store.schema import schema


def warnings(settings: Settings) -> Iterator[Finding]:
    """What is allowed, and hardly meant."""
    for one in settings.warnings:
        mend = one.mend if ": " in one.mend else f"# {one.mend}"  # a line of YAML, or words
        yield warning("configuration", one.message, one.place, mend)


def unconfirmed(settings: Settings, place: str) -> list[Finding]:
    """Who would lose something by it. Blocks. A store that cannot be read is another finding."""
    try:
        found = schema(settings.database)
        if not found.exists or found.unknown or found.pending:
            return []
        views = Reading(settings.database)
        try:
            removal = views.removal(settings)
        finally:
            views.close()
    except (BadDatabaseUrl, StoreUnavailable):
        return []
    lines = [str(loss) for loss in losses(removal)]
    if not lines:
        return []
    return [
        problem(
            "configuration",
            f"the service does not bring it in until it is confirmed: {some(lines)}",
            place,
            "fastagi reload --confirm, where that is meant",
        )
    ]
