"""Driving a run from the command line: with Prefect where a server answers, plainly where none does.

Whatever the orchestrator fails at, the plain loop goes on in this process from the run directory.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flows import work
from flows.console import let_prefect_finish, quiet_prefect
from flows.credentials import credentials_of
from flows.loop import Aborted, Completed, Outcome, Owing, Stopped, Waiting, pursue
from flows.prefect_api import server_answers
from flows.run import Run, Say, existing_run, new_run
from flows.sweeping import refuse_unknown, score_chosen, settle_scores
from k2.checkpoint.retention import empty_trash, move_to_trash, pinned, retain
from k2.recipe.load import load_place, load_recipe
from k2.run.layout import RunLayout
from k2.run.plan import Settle
from k2.run.receipt import Receipt, find_receipt, read_receipt


def drive_new(layout: RunLayout, recipe: str, overrides: tuple[str, ...], place: str | None, say: Say) -> int:
    """Run a recipe from wherever it stands; the exit code."""
    loaded, there = load_recipe(recipe, overrides), load_place(place) if place else None

    def with_prefect() -> None:
        from flows.pretrain import pretrain
        from flows.requests import PretrainRequest

        run, runs_dir = layout.name, str(layout.root.parent)
        pretrain(PretrainRequest(recipe=recipe, run=run, overrides=list(overrides), place=place, runs_dir=runs_dir))

    return _drive(with_prefect, lambda: new_run(layout, loaded, there, say), say)


def drive_existing(layout: RunLayout, say: Say) -> int:
    """Go on with a run; the exit code."""

    def with_prefect() -> None:
        from flows.pretrain import resume
        from flows.requests import ResumeRequest

        resume(ResumeRequest(run=layout.name, runs_dir=str(layout.root.parent)))

    return _drive(with_prefect, lambda: existing_run(layout, say), say)


def _drive(with_prefect: Callable[[], None], opened: Callable[[], AbstractContextManager[Run]], say: Say) -> int:
    """As a flow run where a server answers; where none does, or it is lost for good, by the plain loop."""
    ended = _as_flow_run(with_prefect, say) if server_answers() else None
    if ended is None:
        with opened() as run:
            ended = pursue(run, work.PlainPerformer(run))
    return _exit_code(ended, say)


def _as_flow_run(with_prefect: Callable[[], None], say: Say) -> Outcome | None:
    """How the pipeline ended as a flow run; None when it was Prefect that failed, not the pipeline."""
    from prefect.exceptions import Pause

    from flows.pretrain import hear_how_it_ends

    quiet_prefect()
    with hear_how_it_ends(say) as heard:
        try:
            with_prefect()
        except (Exception, Pause) as error:  # the boundary to the orchestrator: its own trouble must not end a run
            if not heard:
                say(f"Prefect failed ({error.__class__.__name__}); going on without it")
    if heard and isinstance(heard[0], Exception):
        raise heard[0]
    return heard[0] if heard and not isinstance(heard[0], Exception) else None


def _exit_code(outcome: Outcome, say: Say) -> int:
    match outcome:
        case Completed():
            return 0
        case Stopped(reason=reason):
            say(f"stopped ({reason}); go on with `k2 resume`")
            return 3
        case Waiting(incident=incident):
            because = f", because {incident.why_asked}" if incident.why_asked else ""
            say(f"incident {incident.incident} waits for a decision{because}: `k2 decide RUN {incident.incident} rollback|continue|abort`")
            return 4
        case Owing(duties=duties):
            failed = "; ".join(f"{duty.checkpoint} could not be {duty.duty} ({duty.why})" for duty in duties)
            say(f"trained to the end, but {failed}; `k2 resume` tries again")
            return 1
        case Aborted():
            say("an incident was answered with `abort`: the run is over")
            return 1


def score_plainly(layout: RunLayout, suites: tuple[str, ...], checkpoints: tuple[str, ...], say: Say) -> None:
    """Score what is unscored of what the recipe asks for, or the checkpoints with these suites, driven by this process."""
    perform = work.plainly(say)

    def aloud(what: str, call: Callable[[], object]) -> None:
        say(what)
        perform(what, call)

    with existing_run(layout, say) as run:
        _, failed = score_chosen(run, checkpoints, suites, aloud) if suites else settle_scores(run, checkpoints, aloud)
    if failed:
        raise RuntimeError("not all could be scored: " + "; ".join(f"{name}: {why}" for name, why in failed.items()))


def prune_run(layout: RunLayout, say: Say) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Apply retention at once: no trainer reads while we hold the run. The names kept, and those removed."""
    with existing_run(layout, say) as run:
        found = retain(run.recipe, run.facts(), run.holdings(), pinned(layout))
        move_to_trash(layout, found.removable)
        return found.kept, empty_trash(layout)


def export_to(layout: RunLayout, checkpoint: str, out: Path, say: Say) -> Receipt:
    """A copy of the checkpoint's export in a folder that does not exist yet."""
    if out.exists():
        raise ValueError(f"{out} exists already; name a folder that does not: nothing is overwritten")
    with existing_run(layout, say) as run:
        refuse_unknown(run, (checkpoint,))
        if find_receipt(layout.export(checkpoint)) is None:
            work.PlainPerformer(run).settle(Settle(checkpoint, "exported"))
        shutil.copytree(layout.export(checkpoint), out)
    return read_receipt(out)


def publish_to(layout: RunLayout, target: str, checkpoints: tuple[str, ...], say: Say) -> list[dict[str, object]]:
    """Publish what is exported to the given target; a row a checkpoint. What the place's own targets are owed, they get too."""
    from k2.publish.site import publish_shown
    from k2.publish.target import parse_target, resolve_targets
    from k2.publish.upload import publish_checkpoint

    wanted = parse_target(target)
    rows: list[dict[str, object]] = []
    with existing_run(layout, say) as run, credentials_of(run.place):
        refuse_unknown(run, checkpoints)
        for held in run.holdings().checkpoints:
            if held.kind == "chunk" and "exported" in held.settled and (not checkpoints or held.name in checkpoints):
                say(f"publishing {held.name} to {target}")
                others = () if "published" in held.settled else resolve_targets(run.place, layout)
                receipt = publish_checkpoint(run.recipe, layout, held.name, (*others, wanted))
                rows += [{"checkpoint": held.name, **claim} for claim in receipt.facts["targets"] if claim["target"] == str(wanted)]
        for held in run.holdings().checkpoints:
            if (shown := find_receipt(layout.shown(held.name))) is not None and (not checkpoints or held.name in checkpoints):
                publish_shown(layout, shown, [wanted])
    return rows


@contextmanager
def announced_server(runs_dir: Path, say: Say) -> Iterator[None]:
    """A Prefect server while the run lasts, its address said."""
    from flows.server import serving

    with serving(runs_dir) as service:
        say(f"the UI is at {service.ui_url} while this runs")
        try:
            yield
        finally:
            let_prefect_finish()
