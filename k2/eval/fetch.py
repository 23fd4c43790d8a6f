"""Fills a mirror: the data sets of the 21 rows in one folder, so that scoring needs no network. Torch-free.

Enters: the folder, and where to get what it lacks: the Hugging Face Hub, a mirror of it by address, or a folder that somebody brought.
Leaves: `owner/name/...` as a download lays it, `mirror.json` with every digest and revision, and the list of what is missing. What is
there already is not fetched again. A data set that is a loading script, which is foreign code, is taken as the Hub's own conversion to
Parquet instead.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from k2.eval.benchmarks import BENCHMARKS, data_sets
from k2.eval.mirror import data_digest, files_of, missing_in
from k2.run.durable import commit_folder, open_beside, remove_folder, write_durably

HUB = "https://huggingface.co"
_CONVERTED = "refs/convert/parquet"


class FetchedDataSet(BaseModel):
    """One data set of the mirror. `source` says where it came from in this fetch; None: it was there."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: tuple[str, ...] = Field(description="the report's rows that ask it")
    files: int
    bytes: int
    digest: str
    source: str | None = None


class Fetched(BaseModel):
    """What the mirror holds, and what is missing of the 21 rows."""

    model_config = ConfigDict(frozen=True)

    to: str
    data_sets: tuple[FetchedDataSet, ...]
    missing: tuple[str, ...]
    reasons: dict[str, str] = Field(default_factory=dict, description="why a missing one could not be had")


def fetch(to: Path, source: str | None, offline: bool, say: Callable[[str], None]) -> Fetched:
    """Fetch what the folder lacks; say what it holds. `source` is an address, a folder, or None for the Hub; offline fetches nothing."""
    to.mkdir(parents=True, exist_ok=True)
    sources: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for name in () if offline else missing_in(to):
        say(f"fetching {name}")
        try:
            sources[name] = _fetch_one(to, name, source)
        except Exception as error:  # the boundary to somebody's network or disk: the others are fetched all the same
            reasons[name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
            say(f"{name}: {reasons[name]}")
    missing = missing_in(to)
    held = tuple(_described(to, name, sources.get(name)) for name in data_sets() if name not in missing)
    fetched = Fetched(
        to=str(to), data_sets=held, missing=tuple(missing), reasons={name: reasons[name] for name in missing if name in reasons}
    )
    write_durably(to / "mirror.json", json.dumps(fetched.model_dump(mode="json"), indent=1).encode() + b"\n")
    return fetched


def _fetch_one(to: Path, name: str, source: str | None) -> str:
    """Lay the data set below `to`, whole or not at all; where it came from."""
    target = to / name
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = open_beside(target)
    try:
        if source is not None and "://" not in source:
            came_from = _copy(Path(source) / name, beside)
        else:
            came_from = _download(name, source or os.environ.get("HF_ENDPOINT", HUB), beside)
        if target.exists():  # a folder without data: what an interrupted download of somebody's left
            remove_folder(target)
        commit_folder(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return came_from


def _copy(folder: Path, into: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; a folder of data sets holds each as owner/name")
    shutil.copytree(folder, into, dirs_exist_ok=True)
    return str(folder)


def _download(name: str, endpoint: str, into: Path) -> str:
    """From the Hub or a mirror of it; the address and revision."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    info = api.dataset_info(name)
    revision = str(info.sha)
    files = [file.rfilename for file in info.siblings or []]
    if f"{name.partition('/')[2]}.py" in files or not any(_is_data(file) for file in files):
        revision = str(api.dataset_info(name, revision=_CONVERTED).sha)
        api.snapshot_download(name, repo_type="dataset", revision=revision, local_dir=into)
        _describe_configurations(into)
    else:
        api.snapshot_download(name, repo_type="dataset", revision=revision, local_dir=into)
    shutil.rmtree(into / ".cache", ignore_errors=True)
    return f"{endpoint}/datasets/{name} at {revision}"


def _is_data(path: str) -> bool:
    return path.endswith((".parquet", ".json", ".jsonl", ".csv", ".tsv", ".gz", ".zst", ".zip", ".txt", ".arrow"))


def _describe_configurations(folder: Path) -> None:
    """The conversion lays `configuration/split/0000.parquet`, which only the Hub reads as configurations: a card says so here too."""
    files: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/*/*.parquet")):
        configuration, split = path.relative_to(folder).parts[:2]
        files.setdefault(configuration, {})[split.removeprefix("partial-")] = f"{configuration}/{split}/*.parquet"
    described = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
        for name, splits in files.items()
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(described)}\n---\n", "utf-8")


def _described(mirror: Path, name: str, source: str | None) -> FetchedDataSet:
    files = files_of(mirror / name)
    return FetchedDataSet(
        name=name,
        rows=tuple(row.row for row in BENCHMARKS if row.data_set == name),
        files=len(files),
        bytes=sum(file.stat().st_size for file in files),
        digest=data_digest(mirror, name),
        source=source,
    )
