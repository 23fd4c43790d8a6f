"""The rows that the spiked steps of an incident were trained on, with their documents and their text, the worst first.

What enters is an incident of a run; what leaves is a folder: first the rows as they were trained on (`rows.npy`) with
their places, then, when somebody has scored them, `rows.jsonl` in order of their losses. The steps nearest to the onset
come first, and no more rows than a person and a scorer can take in.

Shapes: N rows, T positions of the context.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from k2.data.loader import SampleReader
from k2.data.seen import attempted, seen_by_step
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import write_durably
from k2.run.layout import KeptLayout
from k2.run.ledger import AttemptStarted, Fact, IncidentOpened
from k2.tokenizer import Tokenizer

ROWS, PLACES = "rows.npy", "places.jsonl"
_LIMIT_ROWS = 4096  # K2: two steps of 2,040 rows; a miniature: all


def window_steps(recipe: Recipe, incident: IncidentOpened) -> list[int]:
    """The steps around the onset that may have begun it, nearest first: the loss of a step is taken before its update."""
    stage, reach = recipe.stage(incident.stage), max(2, recipe.spikes.persistence_steps // 4)
    first, last = max(1, incident.onset_step - reach), min(stage.steps, incident.verdict_step, incident.onset_step + reach)
    steps = sorted(range(first, last + 1), key=lambda step: (abs(step - incident.onset_step), step))
    return steps[: max(1, _LIMIT_ROWS // stage.batch_samples)]


def write_window(recipe: Recipe, layout: KeptLayout, facts: Sequence[Fact], incident: IncidentOpened, folder: Path) -> int:
    """Put the rows and their places into `folder`; their number. Rows of steps that the attempt did not train are left out."""
    stage = recipe.stage(incident.stage)
    found = list(_rows(recipe, layout, facts, incident, stage))
    np.save(folder / ROWS, np.array([row for _, row in found], dtype=np.uint16).reshape(len(found), stage.context))
    (folder / PLACES).write_text("".join(json.dumps(place) + "\n" for place, _ in found), "utf-8")
    return len(found)


def write_worst_first(layout: KeptLayout, folder: Path, losses: Sequence[float] | None) -> Path:
    """`rows.jsonl`: a line a row, with its loss, documents and text, the highest loss first; in the order of steps without losses."""
    path = folder / "rows.jsonl"
    places = [json.loads(line) for line in (folder / PLACES).read_text("utf-8").splitlines()]
    rows_NT = np.load(folder / ROWS)
    tokenizer = Tokenizer(layout.tokenizer)
    order = sorted(range(len(places)), key=lambda row: -losses[row] if losses is not None else places[row]["step"])
    lines = [
        places[row] | {"loss": None if losses is None else losses[row], "text": tokenizer.decode(rows_NT[row].tolist())} for row in order
    ]
    write_durably(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return path


def _rows(
    recipe: Recipe, layout: KeptLayout, facts: Sequence[Fact], incident: IncidentOpened, stage: Stage
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.uint16]]]:
    lineages = attempted(recipe, layout, facts, incident.attempt)
    reader = SampleReader(recipe, layout, stage, _known_to(facts, incident.attempt))
    for step in window_steps(recipe, incident):
        branch = lineages[stage.name].branch_of(step)
        if branch is None:
            continue
        seat, numbers = branch.sequence.seat(step), branch.sequence.rows(step)
        sights = list(seen_by_step(recipe, layout, lineages, stage, step))
        chunk_rows = range(numbers.start, numbers.stop) if isinstance(numbers, slice) else numbers
        for number, row in zip(chunk_rows, reader.step(step), strict=True):
            documents = [
                {"subset": s.subset, "document": s.document, "token_start": s.token_start, "token_end": s.token_end}
                for s in sights
                if s.row == number
            ]
            yield {"step": step, "row": int(number), "chunk": seat.chunk, "position": seat.position, "documents": documents}, row


def _known_to(facts: Sequence[Fact], attempt: int) -> list[Fact]:
    """The ledger as it stood when the attempt began: later operations are not its data."""
    started = next(i for i, fact in enumerate(facts) if isinstance(fact, AttemptStarted) and fact.attempt == attempt)
    return list(facts[:started])
