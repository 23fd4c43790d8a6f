"""Publishing as a deployment: uploads what is exported and not yet at a target, every digest compared."""

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows import work
from flows.pretrain import persist, teller
from flows.requests import RunName, layout_of
from flows.run import Run, existing_run
from flows.verdicts import take_over
from k2.run.plan import owed_duties


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
    """Settle the run's open publishing duties; the names of what was published."""
    take_over(run)
    owed = [duty for duty in owed_duties(run.recipe, run.facts(), run.holdings()) if duty.duty == "published"]
    for duty in owed:
        persist(f"publish {duty.checkpoint}", lambda duty=duty: work.settle(run, duty))  # type: ignore[misc]
    return [duty.checkpoint for duty in owed]
