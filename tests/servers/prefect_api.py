"""Asking a Prefect server as any client would: JSON over its REST API, again while it says that it is busy."""

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

BUSY = (503,)  # a busy SQLite answers so, and its own client tries again
PATIENCE_SECONDS = 60.0


def ask(api_url: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
    """The answer to a GET, or to a POST where there is a body."""
    content = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        request = Request(f"{api_url}{path}", content, {"content-type": "application/json", **(headers or {})})
        try:
            with urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code not in BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.5)
