"""Bringing a database to this version's schema."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from quern.errors import StoreError

MIGRATIONS = Path(__file__).with_name("migrations")


def load_migrations() -> ScriptDirectory:
    """Read the packaged migration files. Blocks: call it in a thread."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    migrations = ScriptDirectory(str(MIGRATIONS))
    migrations.get_current_head()
    return migrations


def upgrade(connection: Connection, migrations: ScriptDirectory, where: str) -> None:
    """Take the open transaction's database to the newest revision; a new database gets every table.

    `where` names the database in sentences. Raises StoreError when the database is of a revision that
    `migrations` doesn't know.
    """
    known = {script.revision for script in migrations.walk_revisions()}
    unknown = sorted(set(MigrationContext.configure(connection).get_current_heads()) - known)
    if unknown:
        raise StoreError(
            f"The database {where} is at schema revision {', '.join(unknown)}, which this version of Quern doesn't "
            f"know: a newer version has used it. Nothing was changed. Start that newer version, or give store.url "
            f"another database."
        )

    def steps(current: Any, _: MigrationContext) -> list[RevisionStep]:
        scripts = list(migrations.iterate_revisions("head", current, implicit_base=True))
        return [MigrationStep.upgrade_from_script(migrations.revision_map, script) for script in reversed(scripts)]

    with EnvironmentContext(Config(), migrations, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
