"""Where things are published: `file:///path`, `s3://bucket/prefix`, `hf://owner/repository`.

A target is a name and nothing else. Endpoints and credentials come from the environment of the process that
uploads or from blocks that the place names, so that neither a parameter nor a receipt can carry them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from k2.publish.failure import without_secrets
from k2.recipe.place import Place
from k2.run.layout import RunLayout

_BUCKET = re.compile(r"[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")
_HUB_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,94}[A-Za-z0-9_]|[A-Za-z0-9_]")
_FORMS = "file:///folder, s3://bucket/prefix or hf://owner/repository"


class TargetError(ValueError):
    """A target that is refused: the value, the rule, the fix."""


@dataclass(frozen=True)
class FolderTarget:
    path: Path  # absolute

    def __str__(self) -> str:
        return f"file://{self.path}"


@dataclass(frozen=True)
class S3Target:
    bucket: str
    prefix: str  # without slashes at its ends; may be empty

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class HubTarget:
    owner: str
    name: str

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        return f"hf://{self.repository}"


Target = FolderTarget | S3Target | HubTarget


def resolve_targets(place: Place, layout: RunLayout) -> tuple[Target, ...]:
    """The place's targets with `{run}` and `{runs_dir}` filled in. `TargetError` for one that cannot be used."""
    if not place.publish_to:
        raise TargetError(
            "place.publish_to = [] names no target, but every recipe publishes its last checkpoint; name one, a folder will do"
        )
    targets = tuple(parse_target(_fill(text, layout)) for text in place.publish_to)
    for target in targets:
        if isinstance(target, FolderTarget) and target.path.is_relative_to(layout.root.resolve()):
            raise TargetError(
                f"{target} lies inside the run itself ({layout.root}); publish beside it, for instance file://{{runs_dir}}/../published/{{run}}"
            )
    return tuple(dict.fromkeys(targets))


def parse_target(text: str) -> Target:
    """The target that `text` names. A relative folder is taken from the working directory."""
    scheme, separator, rest = text.partition("://")
    if not separator or not rest:
        raise TargetError(f"target {without_secrets(text)!r} is not a URL: write {_FORMS}")
    if scheme == "file":
        return _folder(text, rest)
    if "@" in rest or "?" in rest or "#" in rest:
        raise TargetError(
            f"a {scheme}:// target must not hold '@', '?' or '#': credentials and options come from the environment; write {_FORMS}"
        )
    if scheme == "s3":
        return _s3(text, rest)
    if scheme == "hf":
        return _hub(text, rest)
    raise TargetError(f"target {text!r} has the unknown scheme {scheme!r}: write {_FORMS}")


def _fill(text: str, layout: RunLayout) -> str:
    root = layout.root.resolve()
    filled = text.replace("{runs_dir}", str(root.parent)).replace("{run}", layout.name)
    if left := re.search(r"\{[^}]*\}?", filled):
        raise TargetError(
            f"target {without_secrets(text)!r} has the unknown placeholder {left.group()!r}: there are {{run}} and {{runs_dir}}"
        )
    return filled


def _folder(text: str, rest: str) -> FolderTarget:
    if "\0" in rest or "\n" in rest:
        raise TargetError(f"target {text!r} has a control character in its path: name an ordinary folder")
    return FolderTarget(Path(rest).resolve())


def _s3(text: str, rest: str) -> S3Target:
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise TargetError(
            f"target {text!r}: {bucket!r} cannot name a bucket: 3 to 63 lower-case letters, digits, '-' and '.'; for instance s3://k2-models/tiny"
        )
    for segment in prefix.split("/") if prefix else ():
        if not _SEGMENT.fullmatch(segment):
            raise TargetError(f"target {text!r}: {segment!r} cannot stand in a prefix: use letters, digits and then '.', '_', '=' and '-'")
    return S3Target(bucket, prefix)


def _hub(text: str, rest: str) -> HubTarget:
    parts = rest.rstrip("/").split("/")
    if len(parts) != 2 or not all(_HUB_NAME.fullmatch(part) for part in parts):
        raise TargetError(
            f"target {text!r} must be hf://owner/repository, of letters, digits, '-', '_' and '.', each at most 96; for instance hf://LLM360/K2"
        )
    return HubTarget(*parts)
