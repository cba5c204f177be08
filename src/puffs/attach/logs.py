"""The log as JSON: one object a line, for programs that collect logs."""

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Makes of each record one line, whatever its message holds.

    Its members: `time` (ISO 8601, UTC), `level`, `program`, `pid`, `message`; `traceback` where
    there is one; and what the record brings as `extra={"puffs": {...}}`, as slow requests do.
    """

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "program": self._program,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        told.update(getattr(record, "puffs", {}))
        return json.dumps(told, default=str)
