"""Flows to trigger: one that says where it ran, one that works in a process of its own until it is ended."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict


class Greeting(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Literal["world", "moon"] = "world"
    times: int = 1


@flow
def greet(request: Greeting = Greeting()) -> str:  # noqa: B008 (Prefect reads the default from the signature)
    said = {"said": f"hello {request.name}" * request.times, "runs_dir": os.environ["K2_RUNS_DIR"], "cwd": str(Path.cwd())}
    Path(os.environ["K2_RUNS_DIR"], f"greeted-{request.name}.json").write_text(json.dumps(said))
    return said["said"]


@flow
def work() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(os.environ["K2_RUNS_DIR"], f"working-{child.pid}").touch()
    child.wait()
