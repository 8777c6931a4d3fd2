"""Databases as earlier versions of Quern made them."""

from pathlib import Path

from sqlalchemy import create_engine

from quern.store.migrate import load_migrations, upgrade

REVISIONS = [script.revision for script in load_migrations().walk_revisions()][::-1]
"""The oldest first."""


def make_at(revision: str, file: Path) -> None:
    """A database at that revision, without an application_id, which came later."""
    file.parent.mkdir(exist_ok=True)
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        upgrade(connection, load_migrations(), to=revision)
    engine.dispose()
