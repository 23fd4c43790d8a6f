"""Publishing as a deployment: uploads what is exported and not yet at a target, every digest compared."""

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows import work
from flows.pretrain import persist, teller
from flows.requests import RunName, layout_of
from flows.run import Run, existing_run
from flows.verdicts import take_over
from k2.run.plan import Settle, owed_duties


class PublishRequest(BaseModel):
    """Which run's checkpoints to publish."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunName = "k2-tiny"
    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")


@flow(name="publish", flow_run_name="publish {request.run}", persist_result=False)
def publish(request: PublishRequest = PublishRequest()) -> list[str]:
    """Publish every checkpoint of a run that is owed to its place's targets and not there yet.

    Args:
        request: which run
    """
    with existing_run(layout_of(request.run, request.runs_dir), teller()) as run:
        return settle_publishing(run)


def settle_publishing(run: Run) -> list[str]:
    """Publish and show what is ready for it; the names of what was published. What is not exported or scored yet waits for who does that.

    One that fails holds up no other; `RuntimeError` at the end says which did.
    """
    take_over(run)
    published: list[str] = []
    left: dict[str, str] = {}  # why a checkpoint's further duties are not tried
    for owed in owed_duties(run.recipe, run.facts(), run.holdings()):
        if owed.checkpoint in left:
            continue
        if owed.duty not in ("published", "shown"):
            left[owed.checkpoint] = ""
            run.say(f"{owed.checkpoint} waits: it is not {owed.duty} yet")
        elif (why := _trouble(run, owed)) is not None:
            left[owed.checkpoint] = why
        elif owed.duty == "published":
            published.append(owed.checkpoint)
    if failed := {name: why for name, why in left.items() if why}:
        raise RuntimeError(f"published {len(published)} checkpoints, but not all: " + "; ".join(failed.values()))
    return published


def _trouble(run: Run, owed: Settle) -> str | None:
    try:
        persist(f"{work.VERBS[owed.duty]} {owed.checkpoint}", lambda: work.settle(run, owed))
    except Exception as error:  # the boundary between checkpoints: one that fails is told, and the next is tried
        run.say(f"{owed.checkpoint} could not be {owed.duty}: {error}")
        return f"{owed.checkpoint}: {error}"
    return None
