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

MIGRATIONS = Path(__file__).with_name("migrations")


def load_migrations() -> ScriptDirectory:
    """Read the packaged migration files. Blocks: call it in a thread."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    migrations = ScriptDirectory(str(MIGRATIONS))
    migrations.get_current_head()
    return migrations


def known_revisions(migrations: ScriptDirectory) -> set[str]:
    """Every revision that this version can bring up to date."""
    return {script.revision for script in migrations.walk_revisions()}


def upgrade(connection: Connection, migrations: ScriptDirectory, to: str = "head") -> None:
    """Take the open transaction's database to a revision, the newest unless `to` names one; a new one gets all."""

    def steps(current: Any, _: MigrationContext) -> list[RevisionStep]:
        scripts = list(migrations.iterate_revisions(to, current, implicit_base=True))
        return [MigrationStep.upgrade_from_script(migrations.revision_map, script) for script in reversed(scripts)]

    with EnvironmentContext(Config(), migrations, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
