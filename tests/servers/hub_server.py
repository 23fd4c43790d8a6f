"""A loopback server that answers what the Hugging Face Hub's client asks when it publishes and downloads models.

No Hub server can be installed, so this one keeps repositories in memory (`hub_store`): branches, tags and commits whose files are
named by content, large files through the LFS protocol (basic or in parts), regular ones inside the commit (`hub_routes`). `fail`
makes it fail on purpose.
"""

import re
import threading
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub_routes import ROUTES
from hub_store import Answer, HubStore, StoredFile, as_error

TOKEN = "hf_loopback_token"


@dataclass(frozen=True)
class Fault:
    """Answer the next `times` requests whose `METHOD /path` matches with `status`; 0 closes the connection instead."""

    pattern: str
    status: int
    times: int = 1


class HubServer(HubStore):
    """The server and its state. Use it as a context. `requests` lists `METHOD /path` of everything it was asked."""

    def __init__(self, part_bytes: int = 0) -> None:
        super().__init__(part_bytes)
        self.requests: list[str] = []
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def fail(self, pattern: str, status: int, times: int = 1) -> None:
        self._faults.append(Fault(pattern, status, times))

    def recover(self) -> None:
        """Fail no more."""
        self._faults.clear()

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """What is published at a revision."""
        stored = self.repositories[repository]
        commit = stored.find(revision)
        assert commit is not None, f"no revision {revision}"
        return {path: file.content for path, file in stored.commits[commit].items()}

    def damage(self, repository: str, revision: str, path: str, content: bytes) -> None:
        """Replace a stored file behind the client's back."""
        stored = self.repositories[repository]
        tree = stored.commits[stored.find(revision) or ""]
        tree[path] = StoredFile(content, tree[path].large)

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> Answer | None:
        """The answer to one request; None to close the connection without any."""
        path = urllib.parse.urlsplit(url).path
        request = f"{method} {path}"
        recursive = "?recursive" if "recursive=true" in url.lower() else ""
        with self._lock:
            self.requests.append(request)
            fault = self._next_fault(request)
            if fault is not None:
                return as_error(fault, "Injected", "failing on purpose") if fault else None
            if not path.startswith("/upload/") and headers.get("Authorization") != f"Bearer {TOKEN}":
                return as_error(401, "Unauthorized", "Invalid credentials in Authorization header")
            for pattern, route in ROUTES:
                if match := re.fullmatch(pattern, request + recursive):
                    return route(self, [urllib.parse.unquote(group or "") for group in match.groups()], body, headers)
            return as_error(404, "NotFound", f"no route for {request}")

    def _next_fault(self, request: str) -> int | None:
        for position, fault in enumerate(self._faults):
            if re.search(fault.pattern, request):
                rest = [Fault(fault.pattern, fault.status, fault.times - 1)] if fault.times > 1 else []
                self._faults[position : position + 1] = rest
                return fault.status
        return None


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # a body sent after its headers would wait 40 ms for their acknowledgement

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: `requests` is the log."""

        def _serve(self) -> None:
            answer = hub.answer(self.command, self.path, self.headers, self._body())
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  the names that http.server calls

    return Handler
