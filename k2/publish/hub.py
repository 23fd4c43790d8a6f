"""Publish to the Hugging Face Hub: a branch for each name, one commit, a tag when it has been verified.

Token and endpoint come from the environment or a block (`HF_TOKEN`, `HF_ENDPOINT`). The tag `<name>-published` is the commit
point; after it `main` follows, when the checkpoint is the newest that counts. The Hub names files by content (SHA-256
of large ones, Git's SHA-1 of the others), so verifying reads no file back.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from k2.publish.credentials import setting
from k2.publish.deliver import Delivered, judge
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.parcel import Item, Parcel
from k2.publish.target import HubTarget
from k2.run.receipt import RECEIPT, Receipt, digest_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUBLIC = "https://huggingface.co"
_PUBLISHED = "-published"  # how the tags end that say so
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the Hub says of one file. `sha256` is known for large files, `blob` (Git's SHA-1) counts for the others."""

    bytes: int
    sha256: str | None
    blob: str


@dataclass(frozen=True)
class Repository:
    """One model repository, through the client."""

    api: "HfApi"
    target: HubTarget

    @property
    def name(self) -> str:
        return self.target.repository

    def receipt(self, revision: str) -> bytes | None:
        """The published receipt at a revision, if both are there."""
        return self.read(RECEIPT, revision)

    def read(self, path: str, revision: str) -> bytes | None:
        """The content of a small file at a revision, if both are there."""
        from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.api.hf_hub_download(self.name, path, revision=revision, local_dir=folder)).read_bytes()
            except (EntryNotFoundError, RevisionNotFoundError):
                return None

    def head(self, branch: str) -> str:
        """The commit that the branch is now."""
        head = self.api.repo_info(self.name, revision=branch).sha
        assert head is not None
        return head

    def tree(self, revision: str) -> dict[str, Entry]:
        """Every file at a revision."""
        from huggingface_hub import RepoFile

        found = self.api.list_repo_tree(self.name, recursive=True, revision=revision)
        return {e.path: Entry(e.size, e.lfs.sha256 if e.lfs else None, e.blob_id) for e in found if isinstance(e, RepoFile)}

    def commit(self, parcel: Parcel, items: list[Item], branch: str) -> str:
        """Bring the branch to exactly the parcel in one commit, on top of what it is now; give the commit's name."""
        head = self.head(branch)
        done = self.change(parcel, items, stale(self.receipt(head), self.tree(head), items), branch, head)
        self.verify(items, done)
        return done

    def change(self, parcel: Parcel, items: list[Item], gone: list[str], branch: str, head: str) -> str:
        """One commit upon `head`, which the branch must still be: files that come and files that go; the commit's name."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        done = self.api.create_commit(
            self.name,
            [CommitOperationAdd(i.path, str(i.source)) for i in items] + [CommitOperationDelete(path) for path in gone],
            commit_message=f"{parcel.name} of {parcel.receipt.facts.get('run', 'a run')}",
            revision=branch,
            parent_commit=head,
        )
        return done.oid

    def verify(self, items: list[Item], revision: str) -> None:
        """`PublishFailed` when a file there is not the item."""
        wrong = differences(items, self.tree(revision))
        if wrong:
            raise PublishFailed(
                f"{self.target} at {revision[:12]} is not what was sent: {'; '.join(wrong[:5])}. Nothing is claimed of it; try again"
            )


class HubShelf:
    """Parcels as the tags that publishing set."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def names(self) -> list[str]:
        tags = (tag.name for tag in self.repository.api.list_repo_refs(self.repository.name).tags)
        return sorted(tag.removesuffix(_PUBLISHED) for tag in tags if tag.endswith(_PUBLISHED))

    def read(self, name: str) -> bytes | None:
        return self.repository.receipt(f"{name}{_PUBLISHED}")

    def fetch(self, name: str, path: str, to: Path) -> None:
        with tempfile.TemporaryDirectory(dir=to.parent) as folder:
            found = self.repository.api.hf_hub_download(self.repository.name, path, revision=f"{name}{_PUBLISHED}", local_dir=folder)
            Path(found).rename(to)


@contextmanager
def connected(target: HubTarget, failing: str) -> Iterator[Repository]:
    """The target's repository; what the client throws comes out as what it means; `failing` says what cannot be done then."""
    with _explained(failing):
        yield Repository(_client(target), target)


def cannot_publish(target: HubTarget, parcel: Parcel) -> str:
    """What is said first of a failure."""
    return f"{parcel.name} could not be published to {target}"


def publish_to_hub(target: HubTarget, parcel: Parcel) -> Delivered:
    """Deliver the parcel as a branch and a tag, and lead `main` to it if it is the newest."""
    with connected(target, cannot_publish(target, parcel)) as repository, tempfile.TemporaryDirectory() as staging:
        items = _all_items(parcel, Path(staging))
        repository.api.create_repo(target.repository, exist_ok=True)
        sent = _deliver(repository, parcel, items)
        _lead(repository, parcel, items)
    log.info("%s -> %s: sent %d of %d files", parcel.name, target, sent, len(parcel.items))
    return Delivered(str(target), len(parcel.items), parcel.total_bytes, sent)


def inspect_hub(target: HubTarget, parcel: Parcel) -> list[str]:
    """What is wrong with the parcel there."""
    with connected(target, cannot_publish(target, parcel)) as repository, tempfile.TemporaryDirectory() as staging:
        content = repository.receipt(_tag(parcel))
        if content is None:
            return [f"{target}: has no tag {_tag(parcel)}, so {parcel.name} was never published"]
        try:
            judge(content, parcel, str(target))
        except PublishRefused as refusal:
            return [str(refusal)]
        return [f"{target}: {wrong}" for wrong in differences(_all_items(parcel, Path(staging)), repository.tree(_tag(parcel)))]


def differences(items: list[Item], tree: Mapping[str, Entry]) -> list[str]:
    """Where the Hub's tree does not agree with the items, one line each."""
    wrong = []
    for item in items:
        entry = tree.get(item.path)
        if entry is None:
            wrong.append(f"{item.path} is missing")
        elif entry.bytes != item.bytes:
            wrong.append(f"{item.path} has {entry.bytes} bytes instead of {item.bytes}")
        elif (entry.sha256 != item.sha256) if entry.sha256 else (entry.blob != git_blob(item.source)):
            wrong.append(f"{item.path} has other content")
    return wrong


def git_blob(path: Path) -> str:
    """The name that Git gives the file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _deliver(repository: Repository, parcel: Parcel, items: list[Item]) -> int:
    """Commit, verify and tag; how many files had to be sent."""
    standing = repository.receipt(_tag(parcel))
    if standing is not None:
        same = judge(standing, parcel, str(repository.target)) == "same"
        if same and not differences(items, repository.tree(_tag(parcel))):
            return 0
        log.warning("%s on %s is abandoned or damaged; it is published again", parcel.name, repository.target)
        repository.api.delete_tag(repository.name, tag=_tag(parcel))
    repository.api.create_branch(repository.name, branch=parcel.name, exist_ok=True)
    sent = len(differences(list(parcel.items), repository.tree(parcel.name)))
    commit = repository.commit(parcel, items, parcel.name)
    repository.api.create_tag(repository.name, tag=_tag(parcel), revision=commit)
    return sent


def _lead(repository: Repository, parcel: Parcel, items: list[Item]) -> None:
    """Bring `main` to the parcel when it is a checkpoint newer than the one there, or the one there was abandoned."""
    if parcel.receipt.kind != "checkpoint":
        return
    content = repository.receipt("main")
    standing = None if content is None else _parse(content)
    if content is not None and (standing is None or standing.kind != "checkpoint"):
        raise PublishRefused(f"main of {repository.target} holds a {RECEIPT} of something else; give the run a repository of its own")
    if standing is None or _counts_before(standing, parcel):
        repository.commit(parcel, items, "main")


def _parse(content: bytes) -> Receipt | None:
    """The receipt, or None for content that k2 did not write."""
    try:
        return Receipt.model_validate_json(content)
    except ValidationError:
        return None


def _counts_before(standing: Receipt, parcel: Parcel) -> bool:
    return standing.inputs.get("checkpoint") in parcel.abandoned or standing.facts["tokens"] < parcel.receipt.facts["tokens"]


def stale(standing: bytes | None, tree: Mapping[str, Entry], items: list[Item]) -> list[str]:
    """Files that an earlier receipt brought and this one does not. Files that nobody's receipt lists are left alone."""
    receipt = None if standing is None else _parse(standing)
    brought = {file.path for file in receipt.files} if receipt else set()
    return sorted((brought & tree.keys()) - {item.path for item in items})


def _all_items(parcel: Parcel, staging: Path) -> list[Item]:
    """The parcel's files and its receipt: a commit takes them together."""
    return [*parcel.items, receipt_item(parcel, RECEIPT, staging)]


def receipt_item(parcel: Parcel, path: str, staging: Path) -> Item:
    """The parcel's receipt as a file to be sent to `path`."""
    receipt = staging / RECEIPT
    receipt.write_bytes(parcel.receipt_content)
    return Item(path, receipt, receipt.stat().st_size, digest_file(receipt))


def _tag(parcel: Parcel) -> str:
    return f"{parcel.name}{_PUBLISHED}"


def lacking_token(target: HubTarget) -> str | None:
    """What the target needs that neither the environment nor a loan has; None where it has."""
    if setting("HF_TOKEN"):
        return None
    return f"{target} needs a token: set HF_TOKEN, or a block of place.credentials, to one that may write to {target.repository}"


def _client(target: HubTarget) -> "HfApi":
    endpoint, token = (setting("HF_ENDPOINT") or PUBLIC).rstrip("/"), setting("HF_TOKEN")
    if (lacking := lacking_token(target)) is not None:
        raise PublishRefused(lacking)
    if endpoint != PUBLIC:
        os.environ["HF_HUB_DISABLE_XET"] = "1"  # the Xet protocol exists on the public Hub alone, and commits in several steps
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if endpoint != PUBLIC:
        constants.HF_HUB_DISABLE_XET = True  # someone may have imported the library before
    disable_progress_bars()
    return HfApi(endpoint=endpoint, token=token, library_name="k2")


@contextmanager
def _explained(failing: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    transport: Any = HfHubHTTPError.__bases__[0]  # the error of the HTTP client in use, whose name changed between versions
    try:
        yield
    except (transport, OSError, RuntimeError) as error:
        _explain(error, failing)


def _explain(error: Exception, failing: str) -> NoReturn:
    """Raise what the error means to the user. The original is left out: it quotes signed upload URLs."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = "; ".join(f"{e.__class__.__name__}: {' '.join(str(e).split())}" for e in (error, error.__cause__) if e is not None)
    if status in (401, 403):
        raise PublishRefused(f"{failing}: HF_TOKEN is wrong or may not do this ({said})") from None
    raise PublishFailed(f"{failing} ({said}); nothing is claimed of it, and trying again goes on where it broke") from None
