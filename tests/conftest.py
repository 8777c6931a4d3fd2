"""What every kind of test shares."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from quern.config import Settings
from quern.store.database import Database

if TYPE_CHECKING:
    from tests.postgresql import PostgreSQL

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about what else the machine does. A test that hangs is ended by pytest-timeout.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

SMALL_MODEL = "qwen2.5-coder-0.5b"


@pytest.fixture(scope="session")
def small_model_path() -> Path:
    """The real small model that `make test` fetched."""
    folder = Settings().models_dir / SMALL_MODEL
    found = sorted(folder.glob("*.gguf"))
    if not found:
        pytest.fail(f"{SMALL_MODEL} is not in {folder}; `make test` fetches it (or `quern pull {SMALL_MODEL}`)")
    return found[0]


@pytest.fixture(scope="session")
def model_folder(small_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's vocabulary with a tiny random network, in Hugging Face's layout."""
    from tests.model_folders import write_model_folder  # noqa: PLC0415 (most tests need no NumPy)

    return write_model_folder(tmp_path_factory.mktemp("Tiny-Coder"), small_model_path)


@pytest.fixture(scope="session")
def tiny_model_path(small_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a GGUF file. It is fast, and wants nothing that anybody asks of it."""
    from tests.model_folders import write_model_file  # noqa: PLC0415 (most tests need no NumPy)

    return write_model_file(tmp_path_factory.mktemp("tiny") / "tiny.gguf", small_model_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database's file. Copies of it spare every test the migrations, which have tests of their own."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("database"))

    async def create() -> None:
        database = Database(settings.database_url)
        await database.open()
        await database.close()

    asyncio.run(create())
    (file,) = settings.data_dir.glob("*.db")
    return file


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[PostgreSQL]":
    """A PostgreSQL server, one for each process of tests."""
    from tests.postgresql import running_postgresql  # noqa: PLC0415 (most tests need none)

    with running_postgresql() as server:
        yield server
