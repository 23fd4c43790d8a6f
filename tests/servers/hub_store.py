"""What a Hub keeps, in memory: repositories of commits whose files are named by content, and large files; and the form of an answer."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


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


class HubStore:
    """The state of a Hub, as its routes change it."""

    url: str

    def __init__(self, part_bytes: int = 0) -> None:
        self.repositories: dict[str, StoredRepository] = {}
        self.large_files: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_bytes = part_bytes  # above 0: larger files are uploaded in parts of this size


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def as_error(status: int, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})
