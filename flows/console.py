"""Prefect's own lines off the console of `k2`, which says what matters itself; the UI still gets its logs."""

import logging


def quiet_prefect() -> None:
    """Take the console handlers of Prefect's loggers away, keep those that send to the server."""
    import prefect  # noqa: F401 (importing it sets its logging up)
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in ("", *[name for name in logging.root.manager.loggerDict if name.startswith("prefect")]):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, PrefectConsoleHandler):
                logger.removeHandler(handler)
