"""Sweeps over the checkpoints of a run: what is owed is verified, exported and scored, or chosen checkpoints with chosen suites.

Each task of a suite is an action of its own, done by whatever `perform` is given. What has its receipt is not done again.
"""

from flows import work
from flows.abreast import side_by_side
from flows.run import Run
from flows.verdicts import take_over
from k2.eval.attempts import forget_failures
from k2.eval.suite import build_suite
from k2.eval.tasks import tasks_of
from k2.launch.evaluator import EvaluatorClosed
from k2.run.plan import Settle, owed_duties


def settle_scores(run: Run, chosen: tuple[str, ...], perform: work.Perform) -> tuple[list[str], dict[str, str]]:
    """Verify, export and score what is unscored (of the chosen checkpoints, or of all): names of what was scored, and of what failed."""
    refuse_unknown(run, chosen)
    take_over(run)
    owed: dict[str, list[Settle]] = {}
    for one in owed_duties(run.recipe, run.facts(), run.holdings()):
        if one.duty in ("verified", "exported", "evaluated") and (not chosen or one.checkpoint in chosen):
            owed.setdefault(one.checkpoint, []).append(one)

    def settle_all(there: Run, name: str) -> None:
        for one in owed[name]:
            _settle(there, one, perform)

    failed = side_by_side(run, owed, settle_all)
    return [name for name, duties in owed.items() if name not in failed and any(one.duty == "evaluated" for one in duties)], failed


def _settle(run: Run, owed: Settle, perform: work.Perform) -> None:
    if owed.duty == "evaluated":
        work.evaluate(run, owed.checkpoint, perform)
    else:
        perform(f"{work.VERBS[owed.duty]} {owed.checkpoint}", lambda: work.settle(run, owed))


def score_chosen(run: Run, chosen: tuple[str, ...], suites: tuple[str, ...], perform: work.Perform) -> tuple[list[str], dict[str, str]]:
    """Score checkpoints with suites, whether the recipe asks for it or not: names of what was scored, and of what failed."""
    refuse_unknown(run, chosen)
    for suite in suites:
        tasks_of(suite)
    take_over(run)
    names = chosen or tuple(held.name for held in run.holdings().checkpoints if held.kind == "chunk")

    for suite in suites if names else ():
        build_suite(run.recipe, run.place, run.layout, suite)

    def score(there: Run, name: str) -> None:
        forget_failures(run.layout, name)  # somebody asks for it: what was given up is tried again
        _score_with_each(there, name, suites, perform)

    failed = side_by_side(run, names, score)
    return [name for name in names if name not in failed], failed


def _score_with_each(run: Run, name: str, suites: tuple[str, ...], perform: work.Perform) -> None:
    """Score with every suite, though one of them fails; then say which did."""
    troubles = []
    for suite in suites:
        try:
            work.score_with(run, name, suite, perform)
        except EvaluatorClosed:
            raise
        except Exception as error:  # the boundary between suites
            troubles.append(f"{suite}: {error.__class__.__name__}: {error}")
    if troubles:
        raise work.EvaluationFailed("; ".join(troubles))


def refuse_unknown(run: Run, chosen: tuple[str, ...]) -> None:
    """`ValueError` for names of checkpoints that the run does not have."""
    names = [held.name for held in run.holdings().checkpoints]
    if unknown := sorted(set(chosen) - set(names)):
        raise ValueError(f"run {run.layout.name!r} has no checkpoint {', '.join(unknown)}; it has {', '.join(names) or 'none yet'}")
