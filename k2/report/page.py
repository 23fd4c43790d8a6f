"""The page of a run: one HTML file that carries all it needs, and is written at once or not at all.

Recipe, run directory and ledger enter, `report/index.html` leaves. Nothing is loaded from elsewhere: style, curves
and a few lines of script stand inline, and the page's own policy forbids everything else. All text is escaped.
"""

import base64
import hashlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import k2
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.report.content import Content, read_content
from k2.report.gallery.site import add_to_gallery, files_of
from k2.report.links import Links, links_beside, links_here
from k2.report.words import carbon, count, duration, energy, loss, number, percent, rate
from k2.run.durable import write_durably
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import Receipt, commit_receipt_only, digest_files, find_receipt
from k2.run.receipt import now as time_now

Publish = Callable[[Receipt], list[dict[str, object]]]
_WORDS = (carbon, count, duration, energy, loss, number, percent, rate)


def build_page(recipe: Recipe, layout: RunLayout, facts: list[Fact], now: float) -> Path:
    """Write the run's page as it stands at `now` (seconds since the epoch), and its edition for other places; give its path."""
    content = read_content(recipe, layout, facts, now)
    incidents = [story.number for story in content.incidents]
    write_durably(layout.published_page, render(content, links_beside(layout, content.status.checkpoints, incidents)).encode())
    write_durably(layout.page, render(content, links_here(layout, content.status.checkpoints, incidents)).encode())
    return layout.page


def nowhere(_shown: Receipt) -> list[dict[str, object]]:
    """Nothing is sent."""
    return []


def show_checkpoint(recipe: Recipe, layout: RunLayout, facts: list[Fact], name: str, now: float, publish: Publish = nowhere) -> Receipt:
    """Settle the duty `shown`: page and gallery with the checkpoint on them, here and where `publish` brings them, and a receipt.

    `publish` is given the receipt as it will be, whose facts list the checkpoint's files by their paths below `report/`, and gives
    its claims for it. Once settled it stays so.
    """
    found = find_receipt(layout.shown(name))
    if found is not None:
        return found
    gallery = add_to_gallery(recipe, layout, name)
    page = build_page(recipe, layout, facts, now)
    checkpoint = find_receipt(layout.checkpoint(name))
    scores = find_receipt(layout.scores(name))
    inputs = {"checkpoint": checkpoint, "scores": scores}
    receipt = Receipt(
        kind="shown",
        name=name,
        recipe=digest(recipe),
        made_at=time_now(),
        inputs={kind: receipt.digest for kind, receipt in inputs.items() if receipt},
        facts={kind: _told(layout, [shown])[0] for kind, shown in (("page", page), ("gallery", gallery))}
        | {"files": _told(layout, files_of(layout, name))},
    )
    claimed = receipt.model_copy(update={"facts": receipt.facts | {"targets": publish(receipt)}})
    return commit_receipt_only(layout.shown(name), claimed)


def _told(layout: RunLayout, paths: list[Path]) -> list[dict[str, object]]:
    return [file.model_dump() for file in digest_files(layout.report, paths)]


def render(content: Content, links: Links) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("k2.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {word.__name__: word for word in _WORDS}
    script = _resource("page.js")
    return environment.get_template("page.html.j2").render(
        c=content,
        links=links,
        made_by=f"k2 {k2.__version__}",
        style=_resource("palette.css") + _resource("page.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _resource(name: str) -> str:
    return (resources.files("k2.report") / name).read_text("utf-8").strip()
