"""Log lines: for people and for machines, never with what must stay private."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from quern.config import LogFormat, LogSettings
from quern.obs.logging import configure_logging

SECRET = "a prompt that nobody else may read"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    for name in ("uvicorn", "uvicorn.error"):  # servers that were tested before may have made them quieter
        logger = logging.getLogger(name)
        logger.handlers, logger.filters, logger.propagate, logger.disabled = [], [], True, False
        logger.setLevel(logging.NOTSET)
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    logging.getLogger("uvicorn.error").filters.clear()


def _fail_with(secret: str) -> None:
    prompt = secret
    raise ZeroDivisionError(len(prompt))


@pytest.mark.parametrize("log_format", list(LogFormat))
@pytest.mark.parametrize("ours", [True, False])
def test_a_traceback_shows_where_but_never_the_values_of_variables(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat, ours: bool
) -> None:
    configure_logging(LogSettings(format=log_format))
    try:
        _fail_with(SECRET)
    except ZeroDivisionError:
        if ours:
            structlog.get_logger("quern.test").exception("broken")
        else:
            logging.getLogger("uvicorn.error").exception("broken")
    written = capsys.readouterr().err
    assert "ZeroDivisionError" in written
    assert "_fail_with" in written
    assert SECRET not in written


def test_json_lines_parse_and_carry_what_was_bound(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format=LogFormat.JSON))
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        structlog.get_logger("quern.test").info("request", status=200, note="你好")
        logging.getLogger("some.library").warning("of a %s", "library")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["message"], first["status"], first["note"], first["request_id"]) == ("request", 200, "你好", "abc")
    assert (second["message"], second["level"], second["request_id"]) == ("of a library", "warning", "abc")


def test_connections_that_are_closed_on_purpose_leave_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(), expected=(ZeroDivisionError,))
    for error in (ZeroDivisionError(), KeyError()):
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    written = capsys.readouterr().err
    assert "ZeroDivisionError" not in written
    assert "KeyError" in written
