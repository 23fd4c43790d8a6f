"""A run that this process drives: its recipe, place and directory, held by the lease.

Everything a performer of actions needs, and nothing of any orchestrator.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from k2.checkpoint.retention import empty_trash
from k2.launch.evaluator import Evaluator
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.control import clear_stop_request
from k2.run.durable import sweep
from k2.run.holdings import Holdings, read_holdings
from k2.run.layout import RunLayout
from k2.run.lease import Lease, hold
from k2.run.ledger import Fact, append_facts, read_facts
from k2.run.opening import create_or_open, open_run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """A held run. `say` takes one line for the person who watches."""

    recipe: Recipe
    place: Place
    layout: RunLayout
    lease: Lease
    evaluator: Evaluator
    aside: Executor  # for what nobody waits for
    say: Say

    def facts(self) -> list[Fact]:
        return read_facts(self.layout.ledger)

    def holdings(self) -> Holdings:
        return read_holdings(self.recipe, self.layout, self.facts())

    def record(self, *facts: Fact) -> None:
        """Append the facts. `RunHeld` where another has taken the run over meanwhile."""
        self.lease.confirm(self.layout)
        append_facts(self.layout.ledger, *facts)


@contextmanager
def new_run(layout: RunLayout, recipe: Recipe, place: Place | None, say: Say) -> Iterator[Run]:
    """Create the run, or go on with it if it is this recipe's. `RunHeld` when another writer holds it."""
    with hold(layout) as lease:
        create_or_open(layout, recipe, place)
        with _drive(layout, lease, say) as run:
            yield run


@contextmanager
def existing_run(layout: RunLayout, say: Say) -> Iterator[Run]:
    """Go on with an existing run, by what its directory says."""
    open_run(layout)
    with hold(layout) as lease, _drive(layout, lease, say) as run:
        yield run


@contextmanager
def _drive(layout: RunLayout, lease: Lease, say: Say) -> Iterator[Run]:
    recipe, place = open_run(layout)
    clear_stop_request(layout)
    questions = layout.all_questions.glob("*")
    for folder in (layout.root, layout.checkpoints, layout.exports, layout.all_scores, layout.incidents, *questions):
        for left in sweep(folder):
            say(f"removed {left.name}, which an interrupted writer left")
    with ThreadPoolExecutor(1, "aside") as aside, Evaluator.of(place, layout, lease) as evaluator:
        yield Run(recipe, place, layout, lease, evaluator, aside, say)
    empty_trash(layout)  # no trainer reads any more
