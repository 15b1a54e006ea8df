"""What the supervisor logs to stderr: lines for people at a terminal, lines of JSON for what collects logs.

Two further loggers go to stderr alone, each only when a setting asks for it, as both have files of their own:
requests, as the audit log has them, and llama-server's lines.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import orjson
from rich.console import Console
from rich.logging import RichHandler

from runner_supervisor.settings import LogFormat

TEXT_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
REQUESTS = "requests"
ENGINE = "llama-server"
SILENT = logging.CRITICAL + 1

LEAST = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncio": logging.WARNING,
    "uvicorn.error": logging.ERROR,  # it warns of every request that is no HTTP
}

FIELDS = "fields"
"""The attribute of a record with what its line of JSON has besides; give it as `extra`."""


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record: time, level, source (`engine` or `front`), logger, message, further fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, a traceback included."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": "engine" if record.name == ENGINE else "front",
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def log_to_stderr(console: Console, *, style: LogFormat, level: str, journal: logging.Handler | None) -> None:
    """Begin to log, for the whole process.

    Args:
        console: stderr.
        style: how lines look; auto: text at a terminal, the journal's way in the journal, else JSON.
        level: least level of the supervisor's own lines.
        journal: what brings records there, if stderr is the journal's.
    """
    handler: logging.Handler = logging.StreamHandler()
    if style == "auto" and journal:
        handler = journal
    elif style == "json" or (style == "auto" and not console.is_terminal):
        handler.setFormatter(JsonFormatter())
    elif console.is_terminal:
        handler = RichHandler(console=console, show_path=False, rich_tracebacks=False, log_time_format="%X")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter(TEXT_LINE))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name, least in LEAST.items():
        logging.getLogger(name).setLevel(least)
    for name in (REQUESTS, ENGINE):
        own = logging.getLogger(name)
        own.propagate = False
        own.addHandler(handler)
        own.setLevel(SILENT)


def also_log(*, requests: bool, engine: bool) -> None:
    """Whether requests and llama-server's lines go to stderr, too, from now on."""
    logging.getLogger(REQUESTS).setLevel(logging.INFO if requests else SILENT)
    logging.getLogger(ENGINE).setLevel(logging.DEBUG if engine else SILENT)


def set_level(level: str) -> None:
    """From now on log the supervisor's own lines of this level and above."""
    logging.getLogger().setLevel(level.upper())


def level_now() -> str:
    """The least level of the supervisor's own lines."""
    return logging.getLevelName(logging.getLogger().level).lower()
