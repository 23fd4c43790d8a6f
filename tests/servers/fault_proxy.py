"""A proxy on loopback that stands in front of a real S3 server and does what networks and busy stores do.

Each `Fault` meets the next requests that fit it, as often as it says; everything else passes unchanged, signature
and all. Source of the list: the ways in which object stores are known to fail (5xx, slow-down, resets, cut bodies, skewed clocks).
"""

import http.client
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["error", "latency", "reset", "cut answer", "lost answer"]


@dataclass
class Fault:
    """What happens to the next `times` requests of `method` whose path and query match `pattern`."""

    kind: Kind
    method: str = "PUT"
    pattern: str = ""
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0


@dataclass
class FaultProxy:
    """Use it as a context; `url` is the endpoint for clients, `met` counts what happened."""

    behind: str
    faults: list[Fault] = field(default_factory=list)
    met: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> "FaultProxy":
        proxy, lock = self, threading.Lock()

        class Handler(_Handler):
            behind = urlsplit(self.behind)

            def fault(self) -> Fault | None:
                with lock:
                    proxy.requests.append(f"{self.command} {self.path}")
                    fits = (f for f in proxy.faults if f.times and f.method == self.command and re.search(f.pattern, self.path))
                    found = next(fits, None)
                    if found is not None:
                        found.times -= 1
                        proxy.met.append(found)
                    return found

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind = urlsplit("")

    def fault(self) -> Fault | None:
        raise AssertionError("the proxy's own handler says which")

    def _serve(self) -> None:
        fault = self.fault()
        if fault is not None and fault.kind == "reset":
            return self._reset()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault is not None and fault.kind == "error":
            return self._answer(fault.status, {"Content-Type": "application/xml"}, _error(fault.code))
        if fault is not None and fault.kind == "latency":
            sleep(fault.seconds)
        status, headers, content = self._pass_on(body)
        if fault is not None and fault.kind == "lost answer":
            return self._reset()
        return self._answer(status, headers, content, cut=fault is not None and fault.kind == "cut answer")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815  the names that the server calls

    def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.behind.hostname or "", self.behind.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding", "content-length")}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length", "0")
        connection.close()
        return answer.status, kept, content

    def _answer(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """End the connection without a word, as a broken network does."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Quiet: the tests read `requests`."""


def _error(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
