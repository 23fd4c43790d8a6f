"""Whether a Prefect server answers, asked without importing Prefect: before anything is entrusted to it."""

import os
from http import HTTPStatus
from urllib.error import HTTPError, URLError
from urllib.request import urlopen


def server_answers() -> bool:
    """Whether the configured server (`PREFECT_API_URL`) is there and healthy."""
    return api_reachable(os.environ.get("PREFECT_API_URL", ""))


def api_reachable(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether the API at `url` answers its health check."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=timeout_seconds) as answer:  # noqa: S310 (http and https only, above)
            return bool(answer.status == HTTPStatus.OK)
    except (HTTPError, URLError, OSError, ValueError):
        return False
