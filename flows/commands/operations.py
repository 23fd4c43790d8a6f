"""Changing what a stage trains on: operations on its data, asked for by a person, recorded for good.

Each takes the run's lease, so it is refused while a driver lives (`k2 stop` first); it holds from the next segment on.
"""

import getpass
from argparse import Namespace
from collections.abc import Callable

from flows.commands.answering import answer, layout_of
from k2.data.operations import Ahead, Asker, what_is_ahead
from k2.run.ledger import DataOperation, append_facts, read_facts
from k2.run.opening import open_run


def defer(arguments: Namespace) -> int:
    """k2 data defer"""
    return _record(arguments, lambda ahead, asker: ahead.defer(arguments.position, asker))


def skip(arguments: Namespace) -> int:
    """k2 data skip"""
    if arguments.steps is not None and arguments.chunk is None and arguments.rows is None:
        first, last = arguments.steps
        return _record(arguments, lambda ahead, asker: ahead.skip_steps(first, last, asker))
    if arguments.steps is None and arguments.chunk is not None and arguments.rows is not None:
        first, last = arguments.rows
        return _record(arguments, lambda ahead, asker: ahead.skip_rows(arguments.chunk, first, last, asker))
    raise ValueError("say what to skip: --steps A-B, or --chunk C --rows A-B")


def reorder(arguments: Namespace) -> int:
    """k2 data reorder"""
    return _record(arguments, lambda ahead, asker: ahead.reorder(arguments.position, arguments.chunks, asker))


def repeat(arguments: Namespace) -> int:
    """k2 data repeat"""
    return _record(arguments, lambda ahead, asker: ahead.repeat(arguments.position, arguments.at, asker))


def _record(arguments: Namespace, decide: Callable[[Ahead, Asker], DataOperation]) -> int:
    from k2.run.holdings import read_holdings
    from k2.run.lease import hold
    from k2.run.operations import words

    if not arguments.why.strip():
        raise ValueError("--why is empty: an operation on the data says why, for whoever reads the ledger later")
    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    with hold(layout):
        facts = read_facts(layout.ledger)
        ahead = what_is_ahead(recipe, facts, read_holdings(recipe, layout, facts), recipe.stage(arguments.stage))
        operation = decide(ahead, Asker(arguments.who or getpass.getuser(), arguments.why))
        recorded = append_facts(layout.ledger, operation)[-1]
    answer(arguments, recorded, f"{arguments.stage}: {words(operation)}; it holds from the next segment on")
    return 0
