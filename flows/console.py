"""Prefect in the process of `k2`: its own lines off the console, and an end that waits for no server.

Prefect sends events and logs from threads that wait, when the process ends, until a server has taken everything; where
the server is gone they wait for ever. What can be sent is sent; then the process leaves.
"""

import logging
import os
import sys
from typing import NoReturn


def quiet_prefect() -> None:
    """Take the console handlers of Prefect's loggers away, keep those that send to the server."""
    import prefect  # noqa: F401 (importing it sets its logging up)
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in ("", *[name for name in logging.root.manager.loggerDict if name.startswith("prefect")]):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, PrefectConsoleHandler):
                logger.removeHandler(handler)


def let_prefect_finish(seconds: float = 10.0) -> None:
    """Send the events and logs that still wait, for so long at most."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=seconds, at_exit=False)


def leave(code: int) -> NoReturn:
    """End the process; where Prefect was used, without waiting for its threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "prefect" in sys.modules:
        os._exit(code)
    sys.exit(code)
