"""What aiohttp says of requests that are no HTTP: counted, not logged. Whoever reaches the port could fill the log with them."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp.http import HttpProcessingError
from aiohttp.web import RequestPayloadError
from prometheus_client import Counter


class ServerLog(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's own log, for `Connection(logger=…)`; what else it says goes on."""

    def __init__(self, malformed: Counter) -> None:
        super().__init__(logging.getLogger("aiohttp.server"))
        self._malformed = malformed

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # UnicodeEncodeError: aiohttp repeats an `Expect` that is no UTF-8 in what it answers
        if isinstance(kwargs.get("exc_info"), HttpProcessingError | RequestPayloadError | UnicodeEncodeError):
            self._malformed.inc()
            return
        super().log(level, msg, *args, **kwargs)
