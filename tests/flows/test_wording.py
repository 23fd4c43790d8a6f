"""What a person reads of a run's incidents: what was decided, by whom, and why somebody is asked."""

from pathlib import Path

from flows.wording import status_lines
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, IncidentDecided, IncidentOpened, append_facts
from k2.run.opening import create_or_open
from k2.run.status import read_status

MINI = str(Path(__file__).parents[1] / "mini.toml")


def test_an_incident_says_why_it_is_asked_and_who_answered_it(tmp_path: Path) -> None:
    recipe, layout = load_recipe(MINI), RunLayout(tmp_path / "mini")
    create_or_open(layout, recipe, Place())
    opened = IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.creep", onset_step=6, verdict_step=9)
    asked = opened.model_copy(update={"why_asked": "the recipe asks about every malignant.creep"})
    append_facts(layout.ledger, AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1), asked)
    assert "verdict at 9; waits for a decision (asked because the recipe asks about every" in status_lines(
        read_status(recipe, layout), layout
    )
    append_facts(layout.ledger, IncidentDecided(incident=1, action="continue", who="ada"))
    assert "verdict at 9; continue by ada (asked because" in status_lines(read_status(recipe, layout), layout)
