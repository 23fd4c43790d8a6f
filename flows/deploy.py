"""Registering the deployments of `deployments/prefect.yaml` with a server: `python -m flows.deploy FILE`.

What enters is the file and the server of `PREFECT_API_URL`; what leaves is the process work pool, each deployment
with its parameters checked against its flow, and the automations: one ends flow runs whose process is gone, one notifies
of spikes. All may be registered again.
"""

import argparse
import importlib
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.deployable import DeploymentsFile, DeploymentsRefused, Entry, Schedule, read_deployments
from flows.notify import register_notification
from flows.prefect_api import server_answers

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate

HEARTBEAT_SECONDS = 30
_SILENT = timedelta(seconds=4 * HEARTBEAT_SECONDS)  # below three beats it ends living runs
_ZOMBIES = "k2-flow-runs-without-a-process"
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")


def load_flow(entry: Entry) -> "Flow[..., Any]":
    """The entry's flow. `DeploymentsRefused` when there is none, or it does not take the entry's parameters."""
    from prefect import Flow
    from prefect.exceptions import ParameterTypeError, SignatureMismatchError

    module, _, function = entry.entrypoint.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DeploymentsRefused(f"deployment {entry.name}: entrypoint {entry.entrypoint} cannot be imported: {error}") from error
    if not isinstance(found, Flow):
        raise DeploymentsRefused(f"deployment {entry.name}: entrypoint {entry.entrypoint} is {type(found).__name__}, no flow")
    for parameters in (entry.parameters, *({**entry.parameters, **schedule.parameters} for schedule in entry.schedules)):
        try:
            found.validate_parameters(parameters)
        except (ParameterTypeError, SignatureMismatchError, TypeError) as error:
            raise DeploymentsRefused(f"deployment {entry.name}: its flow does not take these parameters: {error}") from error
    return found


def register(file: DeploymentsFile, working_dir: Path) -> list[str]:
    """Create or replace pool, deployments and automation on the configured server; the deployments' full names."""
    from prefect.client.orchestration import get_client

    flows = [(entry, load_flow(entry)) for entry in file.deployments]
    with get_client(sync_client=True) as client:
        _create_pool(client, working_dir)
        for entry, flow in flows:
            _create_deployment(client, entry, flow)
        _create_automation(client)
        register_notification(client)
    return [f"{flow.name}/{entry.name}" for entry, flow in flows]


def _create_pool(client: "SyncPrefectClient", working_dir: Path) -> None:
    """The process pool. Flows run in `working_dir`, so that a relative path of a recipe means what it meant to whoever started it."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    variables = template["variables"]["properties"]
    variables["stream_output"]["default"] = False
    variables["working_dir"]["default"] = str(working_dir)
    client.create_work_pool(WorkPoolCreate(name="k2", type="process", base_job_template=template), overwrite=True)


def _create_deployment(client: "SyncPrefectClient", entry: Entry, flow: "Flow[..., Any]") -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.utilities.callables import parameter_schema

    limit = entry.concurrency_limit
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=entry.name,
        entrypoint=entry.entrypoint,
        description=entry.description,
        tags=list(entry.tags),
        parameters=entry.parameters,
        parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
        enforce_parameter_schema=True,
        schedules=[_schedule(schedule) for schedule in entry.schedules],
        work_pool_name=entry.work_pool.name,
        job_variables=entry.work_pool.job_variables.model_dump(exclude_unset=True),
        pull_steps=[],
        concurrency_limit=None if limit is None else limit.limit,
        concurrency_options=None
        if limit is None
        else ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy)),
    )


def _schedule(schedule: Schedule) -> "DeploymentScheduleCreate":
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    when: CronSchedule | IntervalSchedule
    if schedule.cron is not None:
        when = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    else:
        when = IntervalSchedule(interval=timedelta(seconds=schedule.interval or 0), timezone=schedule.timezone)
    return DeploymentScheduleCreate(schedule=when, active=schedule.active, slug=schedule.slug, parameters=schedule.parameters)


def _create_automation(client: "SyncPrefectClient") -> None:
    """A flow run whose process sends no heartbeat any more is marked as crashed: Prefect has no such watch of its own."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    if client.read_automations_by_name(_ZOMBIES):
        return
    silence = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in _ENDED)},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=_SILENT,
    )
    crash = ChangeFlowRunState(name=None, state=StateType.CRASHED, message="its process is gone; go on with `k2 resume`", force=False)
    what = f"A flow run that sent no heartbeat for {_SILENT.total_seconds():.0f} s has lost its process; its training can be resumed."
    client.create_automation(AutomationCore(name=_ZOMBIES, description=what, trigger=silence, actions=[crash]))


def _wait_for_server(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not server_answers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server did not answer within {seconds:.0f} s; see server.log beside its database")
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description="Register deployments with the server of PREFECT_API_URL.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--working-dir", type=Path, default=Path.cwd(), help="where flows run")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for the server")
    given = parser.parse_args()
    try:
        file = read_deployments(given.file)
        for entry in file.deployments:
            load_flow(entry)  # imported while the server starts
        _wait_for_server(given.wait)
        print("\n".join(register(file, given.working_dir)))
    except (DeploymentsRefused, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
