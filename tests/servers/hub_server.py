"""A loopback server that answers what the Hugging Face Hub's client asks when it publishes and downloads models.

No Hub server can be installed, so this one keeps repositories in memory: branches, tags and commits whose files are
named by content, large files through the LFS protocol (basic or in parts), regular ones inside the commit. The calls
are those that huggingface_hub makes; their shapes were read off the client. `faults` makes it fail on purpose.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".model", ".bin", ".npy")  # what the Hub's default .gitattributes sends through LFS
TOKEN = "hf_loopback_token"


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def name(self) -> str:
        return self.sha256 if self.large else self.blob


@dataclass
class StoredRepository:
    """Commits by name, each a whole tree, and the branches and tags that point to them."""

    commits: dict[str, dict[str, StoredFile]]
    branches: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """Answer the next `times` requests whose `METHOD /path` matches with `status`; 0 closes the connection instead."""

    pattern: str
    status: int
    times: int = 1


class HubServer:
    """The server and its state. Use it as a context. `requests` lists `METHOD /path` of everything it was asked."""

    def __init__(self, part_bytes: int = 0) -> None:
        self.repositories: dict[str, StoredRepository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.part_bytes = part_bytes  # above 0: larger files are uploaded in parts of this size
        self._parts: dict[tuple[str, int], bytes] = {}
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

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
                return _error(fault, "Injected", "failing on purpose") if fault else None
            if not path.startswith("/upload/") and headers.get("Authorization") != f"Bearer {TOKEN}":
                return _error(401, "Unauthorized", "Invalid credentials in Authorization header")
            for pattern, route in ROUTES:
                if match := re.fullmatch(pattern, request + recursive):
                    return route(self, [urllib.parse.unquote(group or "") for group in match.groups()], body, headers)
            return _error(404, "NotFound", f"no route for {request}")

    def _next_fault(self, request: str) -> int | None:
        for position, fault in enumerate(self._faults):
            if re.search(fault.pattern, request):
                rest = [Fault(fault.pattern, fault.status, fault.times - 1)] if fault.times > 1 else []
                self._faults[position : position + 1] = rest
                return fault.status
        return None


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})


def _create(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    asked = json.loads(body)
    name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
    if name in hub.repositories:
        return Answer(409, json.dumps({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}).encode())
    first = hashlib.sha1(name.encode()).hexdigest()
    hub.repositories[name] = StoredRepository({first: {".gitattributes": StoredFile(b"", False)}}, {"main": first})
    return _json({"url": f"{hub.url}/{name}", "name": name, "id": first})


def _branch(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    repository, branch = hub.repositories[groups[0]], groups[1]
    if branch in repository.branches:
        return _error(409, "RefExists", "Reference already exists")
    repository.branches[branch] = repository.branches[json.loads(body or b"{}").get("startingPoint") or "main"]
    return _json({})


def _tag(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    repository, tag = hub.repositories[groups[0]], json.loads(body)["tag"]
    commit = repository.find(groups[1])
    if tag in repository.tags:
        return _error(409, "RefExists", "Tag already exists")
    if commit is None:
        return _error(404, "RevisionNotFound", f"Invalid rev id: {groups[1]}")
    repository.tags[tag] = commit
    return _json({})


def _delete_tag(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    hub.repositories[groups[0]].tags.pop(groups[1], None)
    return _json({})


def _at_revision(route: Callable[[HubServer, str, dict[str, StoredFile], list[str], bytes, Any], Answer]) -> Any:
    """A route about a repository (first group) at a revision (second group): both must exist."""

    def found(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
        repository = hub.repositories.get(groups[0])
        if repository is None:
            return _error(404, "RepoNotFound", "Repository not found")
        commit = repository.find(groups[1])
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {groups[1]}")
        return route(hub, commit, repository.commits[commit], groups, body, headers)

    return found


def _newest(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    answer: Answer = _revision(hub, [groups[0], "main"], body, headers)
    return answer


@_at_revision
def _revision(hub: HubServer, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    siblings = [{"rfilename": path} for path in sorted(tree)]
    return _json({"_id": commit, "id": groups[0], "modelId": groups[0], "sha": commit, "private": False, "tags": [], "siblings": siblings})


def _refs(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    repository = hub.repositories.get(groups[0])
    if repository is None:
        return _error(404, "RepoNotFound", "Repository not found")
    kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
    shown = {
        kind: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit} for name, commit in sorted(there.items())]
        for kind, (folder, there) in kinds.items()
    }
    return _json(shown | {"converts": []})


@_at_revision
def _tree(hub: HubServer, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    """The files of a folder (third group), and its folders; with `?recursive` those of all folders in it."""
    folder, recursive = groups[2].strip("/"), groups[3]
    below = {path: file for path, file in tree.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not below:
        return _error(404, "EntryNotFound", "Entry not found")
    entries = {
        path: _entry(path, file) for path, file in below.items() if recursive or path.count("/") == len(folder and folder.split("/"))
    }
    for path in below:
        for parent in _folders(path):
            if len(parent) > len(folder) and (recursive or parent.count("/") == len(folder and folder.split("/"))):
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": hashlib.sha1(parent.encode()).hexdigest()}
    return _json([entries[path] for path in sorted(entries)])


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _entry(path: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob}
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
    return entry


@_at_revision
def _preupload(hub: HubServer, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    modes = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LARGE) or file["size"] > 10_000_000 else "regular",
            "shouldIgnore": False,
            "oid": tree[file["path"]].name if file["path"] in tree else None,
        }
        for file in json.loads(body)["files"]
    ]
    return _json({"files": modes})


@_at_revision
def _commit(hub: HubServer, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    repository, branch = hub.repositories[groups[0]], groups[1]
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    parent = lines[0]["value"].get("parentCommit")
    if parent and parent != commit:
        return _error(412, "ParentCommitMismatch", "A commit has happened since. Please refresh and try again.")
    if branch not in repository.branches:
        return _error(400, "BadRequest", "can only commit to a branch")
    new = dict(tree)
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            new[value["path"]] = StoredFile(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile" and value["oid"] in hub.large_files:
            new[value["path"]] = StoredFile(hub.large_files[value["oid"]], True)
        elif line["key"] == "deletedFile":
            new.pop(value["path"], None)
        else:
            return _error(400, "BadRequest", f"cannot commit {line['key']} {value['path']}")
    name = hashlib.sha1(json.dumps([commit, len(repository.commits), *((p, f.name) for p, f in sorted(new.items()))]).encode()).hexdigest()
    repository.commits[name] = new
    repository.branches[branch] = name
    return _json({"success": True, "commitOid": name, "commitUrl": f"{hub.url}/{groups[0]}/commit/{name}", "hookOutput": ""})


def _lfs_batch(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    objects = []
    for asked in json.loads(body)["objects"]:
        answer = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.large_files:
            answer["actions"] = {"upload": _upload_action(hub, asked["oid"], asked["size"])}
        objects.append(answer)
    return _json({"transfer": "basic", "objects": objects})


def _upload_action(hub: HubServer, oid: str, size: int) -> dict[str, Any]:
    signed = "?X-Amz-Signature=presigned-canary"
    if not hub.part_bytes or size <= hub.part_bytes:
        return {"href": f"{hub.url}/upload/{oid}{signed}"}
    parts = range(1, -(-size // hub.part_bytes) + 1)
    header = {"chunk_size": str(hub.part_bytes)} | {f"{n:05d}": f"{hub.url}/upload/{oid}/{n}{signed}" for n in parts}
    return {"href": f"{hub.url}/upload/{oid}/complete{signed}", "header": header}


def _upload(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    oid, part = groups
    if part:
        hub._parts[oid, int(part)] = body
    elif hashlib.sha256(body).hexdigest() != oid:
        return _error(400, "BadDigest", "the content does not match its SHA-256")
    else:
        hub.large_files[oid] = body
    return Answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})


def _complete(hub: HubServer, groups: list[str], body: bytes, headers: Any) -> Answer:
    oid = groups[0]
    content = b"".join(hub._parts[oid, n] for n in range(1, len(json.loads(body)["parts"]) + 1))
    if hashlib.sha256(content).hexdigest() != oid:
        return _error(400, "BadDigest", "the content does not match its SHA-256")
    hub.large_files[oid] = content
    return Answer(200)


@_at_revision
def _resolve(hub: HubServer, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    file = tree.get(groups[2])
    if file is None:
        return _error(404, "EntryNotFound", "Entry not found")
    about = {"X-Repo-Commit": commit, "ETag": f'"{file.name}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range") or ""):
        first, last = int(asked[1]), min(int(asked[2] or len(file.content) - 1), len(file.content) - 1)
        about["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
        return Answer(206, file.content[first : last + 1], about)
    return Answer(200, file.content, about)


@_at_revision
def _paths(hub: HubServer, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    asked = urllib.parse.parse_qs(body.decode())["paths"]
    return _json([_entry(path, tree[path]) for path in asked if path in tree])


_REPOSITORY = r"/api/(?:models|datasets)/([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"POST /api/repos/create", _create),
    (r"POST /api/validate-yaml", lambda *_: _json({"errors": [], "warnings": []})),
    (rf"POST {_REPOSITORY}/branch/([^/]+)", _branch),
    (rf"POST {_REPOSITORY}/tag/([^/]+)", _tag),
    (rf"DELETE {_REPOSITORY}/tag/([^/]+)", _delete_tag),
    (rf"GET {_REPOSITORY}/refs", _refs),
    (rf"GET {_REPOSITORY}", _newest),
    (rf"GET {_REPOSITORY}/revision/([^/]+)", _revision),
    (rf"GET {_REPOSITORY}/tree/([^/?]+)(/[^?]*)?(\?recursive)?", _tree),
    (rf"POST {_REPOSITORY}/paths-info/([^/]+)", _paths),
    (rf"POST {_REPOSITORY}/preupload/([^/]+)", _preupload),
    (rf"POST {_REPOSITORY}/commit/([^/]+)", _commit),
    (r"POST /[^/]+/[^/]+\.git/info/lfs/objects/batch", _lfs_batch),
    (r"PUT /upload/([0-9a-f]{64})(?:/(\d+))?", _upload),
    (r"POST /upload/([0-9a-f]{64})/complete", _complete),
    (r"(?:GET|HEAD) /(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _resolve),
]


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
