"""Each engine in turn, with a tiny random network, for the cases that hold for all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from .engines import ENGINES, Subject, make_subject, started


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def each_engine(request: pytest.FixtureRequest, tiny_model_path: Path) -> AsyncGenerator[Subject]:
    """A started engine, one for all cases of a module."""
    async with started(make_subject(request.param, tiny_model_path)) as subject:
        yield subject


@pytest_asyncio.fixture(loop_scope="module")
async def subject(each_engine: Subject) -> AsyncGenerator[Subject]:
    """The same, found idle after every case."""
    yield each_engine
    await each_engine.assert_idle()
