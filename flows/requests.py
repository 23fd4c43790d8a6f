"""What a flow of the UI is asked for: the forms of the deployments, and the run directory that they mean."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from k2.run.layout import RunLayout, run_root

RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="name of the run: its folder under the runs directory")]


class PretrainRequest(BaseModel):
    """What to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(
        default="k2_tiny", description="a shipped recipe (k2_tiny, k2_1b, k2_65b) or the path of a .toml file on the worker"
    )
    run: RunName = "k2-tiny"
    overrides: list[str] = Field(default=[], description="fields of the recipe to change, each written a.b=c")
    place: str | None = Field(default=None, description="path of a .toml file that says where the run happens; empty: this machine")
    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")


class ResumeRequest(BaseModel):
    """Which run to go on with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunName = "k2-tiny"
    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")


def layout_of(run: str, runs_dir: str | None) -> RunLayout:
    """The run's directory, under the given folder or the worker's own."""
    return RunLayout(run_root(Path(runs_dir or os.environ.get("K2_RUNS_DIR", "runs")), run))
