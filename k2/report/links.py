"""Where the page's links lead: into the run directory, or, in the edition that is published, to what lies beside it at a target.

A run directory and its checkpoints enter; addresses relative to the page leave, and none for what is not there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from k2.run.holdings import DUTIES, Duty, duty_folder
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, find_receipt
from k2.run.status import CheckpointStatus


@dataclass(frozen=True)
class Links:
    """Addresses by what they lead to."""

    checkpoints: Mapping[str, str]
    duties: Mapping[tuple[str, Duty], str]  # of a checkpoint, only what is settled
    incidents: Mapping[int, str]
    recipe: str | None
    ledger: str | None
    release: str | None


def links_here(layout: RunLayout, checkpoints: Iterable[CheckpointStatus], incidents: Iterable[int]) -> Links:
    """Into the run directory."""
    held = list(checkpoints)
    return Links(
        checkpoints={one.name: f"../checkpoints/{one.name}/" for one in held if layout.checkpoint(one.name).is_dir()},
        duties={
            (one.name, duty): f"../{folder.relative_to(layout.root)}/"
            for one in held
            for duty in DUTIES
            if one.obligations.get(duty) and ((folder := duty_folder(layout, one.name, duty)) / RECEIPT).is_file()
        },
        incidents={number: f"../incidents/{number:03d}/" for number in incidents if layout.incident(number).is_dir()},
        recipe=f"../{layout.recipe.name}",
        ledger=f"../{layout.ledger.name}",
        release="../release/" if layout.release.is_dir() else None,
    )


def links_beside(layout: RunLayout, checkpoints: Iterable[CheckpointStatus], incidents: Iterable[int]) -> Links:
    """To the checkpoints, galleries and spikes that lie beside the page where it is published: to files, as a bucket has no folders."""
    held = list(checkpoints)
    published = [one.name for one in held if one.obligations.get("published")]
    newest = published[-1] if published else None
    return Links(
        checkpoints={name: f"../{name}/README.md" for name in published},
        duties={
            (one.name, duty): address
            for one in held
            for duty in DUTIES
            if one.obligations.get(duty) and (address := _beside(one.name, duty, one.name in published))
        },
        incidents={
            number: f"../spike_{number:03d}/{RECEIPT}"
            for number in incidents
            if find_receipt(layout.kept(number).published_evidence) is not None
        },
        recipe=f"../{newest}/recipe.toml" if newest else None,
        ledger=f"../{newest}/history/ledger.jsonl" if newest else None,
        release="../release/release.json" if layout.release.is_dir() else None,
    )


def _beside(name: str, duty: Duty, published: bool) -> str | None:
    if duty == "evaluated":
        return f"../report/gallery/index.html#b={name}"
    if duty == "shown":
        return f"../report/{name}.json"
    of_checkpoint = {"verified": "receipts/checkpoint.json", "exported": "receipts/export.json", "published": RECEIPT}
    return f"../{name}/{of_checkpoint[duty]}" if published else None
