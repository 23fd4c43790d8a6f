"""The calls of huggingface_hub that the loopback Hub answers; their shapes were read off the client.

A route is given the store, the groups of its pattern, the body and the headers.
"""

import base64
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from hub_store import Answer, HubStore, StoredFile, StoredRepository, as_error, as_json

LARGE = (".safetensors", ".model", ".bin", ".npy")  # what the Hub's default .gitattributes sends through LFS


def _create(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    asked = json.loads(body)
    name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
    if name in hub.repositories:
        return Answer(409, json.dumps({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}).encode())
    first = hashlib.sha1(name.encode()).hexdigest()
    hub.repositories[name] = StoredRepository({first: {".gitattributes": StoredFile(b"", False)}}, {"main": first})
    return as_json({"url": f"{hub.url}/{name}", "name": name, "id": first})


def _branch(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    repository, branch = hub.repositories[groups[0]], groups[1]
    if branch in repository.branches:
        return as_error(409, "RefExists", "Reference already exists")
    repository.branches[branch] = repository.branches[json.loads(body or b"{}").get("startingPoint") or "main"]
    return as_json({})


def _tag(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    repository, tag = hub.repositories[groups[0]], json.loads(body)["tag"]
    commit = repository.find(groups[1])
    if tag in repository.tags:
        return as_error(409, "RefExists", "Tag already exists")
    if commit is None:
        return as_error(404, "RevisionNotFound", f"Invalid rev id: {groups[1]}")
    repository.tags[tag] = commit
    return as_json({})


def _delete_tag(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    hub.repositories[groups[0]].tags.pop(groups[1], None)
    return as_json({})


def _at_revision(route: Callable[[HubStore, str, dict[str, StoredFile], list[str], bytes, Any], Answer]) -> Any:
    """A route about a repository (first group) at a revision (second group): both must exist."""

    def found(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
        repository = hub.repositories.get(groups[0])
        if repository is None:
            return as_error(404, "RepoNotFound", "Repository not found")
        commit = repository.find(groups[1])
        if commit is None:
            return as_error(404, "RevisionNotFound", f"Invalid rev id: {groups[1]}")
        return route(hub, commit, repository.commits[commit], groups, body, headers)

    return found


def _newest(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    answer: Answer = _revision(hub, [groups[0], "main"], body, headers)
    return answer


@_at_revision
def _revision(hub: HubStore, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    siblings = [{"rfilename": path} for path in sorted(tree)]
    return as_json(
        {"_id": commit, "id": groups[0], "modelId": groups[0], "sha": commit, "private": False, "tags": [], "siblings": siblings}
    )


def _refs(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    repository = hub.repositories.get(groups[0])
    if repository is None:
        return as_error(404, "RepoNotFound", "Repository not found")
    kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
    shown = {
        kind: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit} for name, commit in sorted(there.items())]
        for kind, (folder, there) in kinds.items()
    }
    return as_json(shown | {"converts": []})


@_at_revision
def _tree(hub: HubStore, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    """The files of a folder (third group), and its folders; with `?recursive` those of all folders in it."""
    folder, recursive = groups[2].strip("/"), groups[3]
    below = {path: file for path, file in tree.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not below:
        return as_error(404, "EntryNotFound", "Entry not found")
    entries = {
        path: _entry(path, file) for path, file in below.items() if recursive or path.count("/") == len(folder and folder.split("/"))
    }
    for path in below:
        for parent in _folders(path):
            if len(parent) > len(folder) and (recursive or parent.count("/") == len(folder and folder.split("/"))):
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": hashlib.sha1(parent.encode()).hexdigest()}
    return as_json([entries[path] for path in sorted(entries)])


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _entry(path: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob}
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
    return entry


@_at_revision
def _preupload(hub: HubStore, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    modes = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LARGE) or file["size"] > 10_000_000 else "regular",
            "shouldIgnore": False,
            "oid": tree[file["path"]].name if file["path"] in tree else None,
        }
        for file in json.loads(body)["files"]
    ]
    return as_json({"files": modes})


@_at_revision
def _commit(hub: HubStore, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    repository, branch = hub.repositories[groups[0]], groups[1]
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    parent = lines[0]["value"].get("parentCommit")
    if parent and parent != commit:
        return as_error(412, "ParentCommitMismatch", "A commit has happened since. Please refresh and try again.")
    if branch not in repository.branches:
        return as_error(400, "BadRequest", "can only commit to a branch")
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
            return as_error(400, "BadRequest", f"cannot commit {line['key']} {value['path']}")
    name = hashlib.sha1(json.dumps([commit, len(repository.commits), *((p, f.name) for p, f in sorted(new.items()))]).encode()).hexdigest()
    repository.commits[name] = new
    repository.branches[branch] = name
    return as_json({"success": True, "commitOid": name, "commitUrl": f"{hub.url}/{groups[0]}/commit/{name}", "hookOutput": ""})


def _lfs_batch(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    objects = []
    for asked in json.loads(body)["objects"]:
        answer = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.large_files:
            answer["actions"] = {"upload": _upload_action(hub, asked["oid"], asked["size"])}
        objects.append(answer)
    return as_json({"transfer": "basic", "objects": objects})


def _upload_action(hub: HubStore, oid: str, size: int) -> dict[str, Any]:
    signed = "?X-Amz-Signature=presigned-canary"
    if not hub.part_bytes or size <= hub.part_bytes:
        return {"href": f"{hub.url}/upload/{oid}{signed}"}
    parts = range(1, -(-size // hub.part_bytes) + 1)
    header = {"chunk_size": str(hub.part_bytes)} | {f"{n:05d}": f"{hub.url}/upload/{oid}/{n}{signed}" for n in parts}
    return {"href": f"{hub.url}/upload/{oid}/complete{signed}", "header": header}


def _upload(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    oid, part = groups
    if part:
        hub.parts[oid, int(part)] = body
    elif hashlib.sha256(body).hexdigest() != oid:
        return as_error(400, "BadDigest", "the content does not match its SHA-256")
    else:
        hub.large_files[oid] = body
    return Answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})


def _complete(hub: HubStore, groups: list[str], body: bytes, headers: Any) -> Answer:
    oid = groups[0]
    content = b"".join(hub.parts[oid, n] for n in range(1, len(json.loads(body)["parts"]) + 1))
    if hashlib.sha256(content).hexdigest() != oid:
        return as_error(400, "BadDigest", "the content does not match its SHA-256")
    hub.large_files[oid] = content
    return Answer(200)


@_at_revision
def _resolve(hub: HubStore, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    file = tree.get(groups[2])
    if file is None:
        return as_error(404, "EntryNotFound", "Entry not found")
    about = {"X-Repo-Commit": commit, "ETag": f'"{file.name}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range") or ""):
        first, last = int(asked[1]), min(int(asked[2] or len(file.content) - 1), len(file.content) - 1)
        about["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
        return Answer(206, file.content[first : last + 1], about)
    return Answer(200, file.content, about)


@_at_revision
def _paths(hub: HubStore, commit: str, tree: dict[str, StoredFile], groups: list[str], body: bytes, headers: Any) -> Answer:
    asked = urllib.parse.parse_qs(body.decode())["paths"]
    return as_json([_entry(path, tree[path]) for path in asked if path in tree])


_REPOSITORY = r"/api/(?:models|datasets)/([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"POST /api/repos/create", _create),
    (r"POST /api/validate-yaml", lambda *_: as_json({"errors": [], "warnings": []})),
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
