"""The card of one checkpoint, and the words beside its data, made from its receipts and the recipe and from nothing else.

The same receipts give the same words, to the byte: they are part of what is published and compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from k2.recipe.schema import Recipe
from k2.run.receipt import Receipt


@dataclass(frozen=True)
class Described:
    """What a card speaks of. `scores` is None for a checkpoint that the recipe does not score."""

    recipe: Recipe
    run: str
    checkpoint: Receipt
    export: Receipt
    scores: Receipt | None
    chunks: Receipt


def render_card(described: Described) -> str:
    """The card as Markdown with the Hub's YAML header."""
    recipe, facts = described.recipe, described.checkpoint.facts
    return render(
        "card.md.j2",
        recipe=recipe,
        run=described.run,
        checkpoint=described.checkpoint,
        stage=recipe.stage(facts["stage"]),
        facts=facts,
        export=described.export,
        scores=described.scores,
        mix=_mix(described.chunks, facts["stage"]),
    )


def describe_data(recipe: Recipe, checkpoint: Receipt, chunks: Sequence[int]) -> str:
    """What the data beside a checkpoint is and how it is read. `chunks` are the last that it was trained on, in that order."""
    stage = recipe.stage(checkpoint.facts["stage"])
    end = int(checkpoint.name.removeprefix("ckpt_")) - recipe.first_checkpoint_number(stage.name)
    return render("data.md.j2", recipe=recipe, stage=stage, checkpoint=checkpoint, chunks=list(enumerate(chunks, end - len(chunks))))


def render(template: str, **values: Any) -> str:
    """A template of this package with these values."""
    import jinja2

    source = (resources.files("k2.publish") / template).read_text("utf-8")
    # Markdown, not HTML: what could break a table or the header goes through the filters `cell` and `tojson`
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701
    environment.filters["cell"] = as_cell
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment.from_string(source).render(**values)


def as_cell(value: Any) -> str:
    """Text that stays inside one cell of a Markdown table, and shows markup as it is written."""
    plain = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]|" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c) for c in plain)


def _mix(chunks: Receipt, stage: str) -> Mapping[str, Mapping[str, Any]]:
    """The stage's subsets as they were counted from its chunks."""
    subsets: Mapping[str, Mapping[str, Any]] = chunks.facts["stages"][stage]["subsets"]
    return subsets
