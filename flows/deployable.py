"""The file that says what is deployed, read by a strict model: Prefect itself passes over a misspelt key.

What enters is a `prefect.yaml` (the form that `prefect deploy` takes too); what leaves is a `DeploymentsFile`, or
`DeploymentsRefused` with the field, the value and the rule.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Strict):
    slug: str
    cron: str | None = None
    interval: Annotated[int, Field(ge=1, description="seconds")] | None = None
    timezone: str = "UTC"
    active: bool = True
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.cron is None) == (self.interval is None):
            raise ValueError(f"schedule {self.slug!r} must have either cron or interval")
        return self


class JobVariables(_Strict):
    stream_output: bool = False
    working_dir: str | None = None
    env: dict[str, str] = {}


class WorkPool(_Strict):
    name: Literal["k2"]
    job_variables: JobVariables = JobVariables()


class ConcurrencyLimit(_Strict):
    limit: Annotated[int, Field(ge=1)]
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"


class Entry(_Strict):
    """One deployment."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    entrypoint: Annotated[str, Field(pattern=r"^[a-z_0-9.]+:[a-z_0-9]+$", description="module:function of an installed package")]
    description: str
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any]
    schedules: tuple[Schedule, ...] = ()
    work_pool: WorkPool
    concurrency_limit: ConcurrencyLimit | None = None


class DeploymentsFile(_Strict):
    """The whole file. `definitions` only holds YAML anchors."""

    name: str
    pull: Annotated[tuple[Any, ...], Field(max_length=0)]
    definitions: dict[str, Any] = {}
    deployments: Annotated[tuple[Entry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.deployments]
        if len(set(names)) < len(names):
            raise ValueError(f"deployments are named {', '.join(names)}: each name may stand once")
        return self


class DeploymentsRefused(ValueError):
    """A deployments file that is refused. The text is for the user."""


def read_deployments(path: Path) -> DeploymentsFile:
    """The file, checked. `DeploymentsRefused` names the field, the value and the rule."""
    import yaml

    try:
        return DeploymentsFile.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise DeploymentsRefused(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in error.errors(include_url=False)]
        raise DeploymentsRefused(f"{path} is refused: {'; '.join(wrong)}") from error
