"""Logging: structlog for our own lines and for the libraries', to standard error, for people or as JSON."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.types import Processor

from quern.config import LogFormat, LogSettings
from quern.obs.output import Output

KEY = re.compile(r"(quern_[0-9A-Za-z]{10}_)[0-9A-Za-z]{43}")
"""What `access.secrets` makes. Nothing of ours writes one; a client may, in a path or where it says its name."""

QUIET_LIBRARIES = ("aiosqlite", "alembic", "filelock", "httpcore2", "httpx2", "uvicorn.access")


def configure_logging(
    settings: LogSettings, expected: tuple[type[BaseException], ...] = (), output: Output | None = None
) -> None:
    """Send every log line of this process through one formatter. Call at start, and again for other settings.

    `expected`: exceptions that end a connection on purpose, so the HTTP server's traceback of them is noise. `output`:
    where to, standard error if it is not given.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr if output is None else output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings.format),
                _without_keys,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").filters = [_without(expected)]


def _without_keys(_logger: Any, _method: str, line: Any) -> str:
    """A line without the secrets of keys; tracebacks are a part of it."""
    return KEY.sub(r"\1…", str(line))


def _without(exceptions: tuple[type[BaseException], ...]) -> Callable[[logging.LogRecord], bool]:
    def keep(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], exceptions))

    return keep


def _renderers(log_format: LogFormat) -> list[Any]:
    """Tracebacks never show local variables: prompts and keys are among them."""
    if log_format is LogFormat.JSON:
        return [
            structlog.processors.EventRenamer("message"),
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
