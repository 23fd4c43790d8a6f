"""A sample of `benchmarks/closed_loop.py`: a spike that comes back after the first rollback, and gradients that are no numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "closed_loop.py"


def test_the_loop_closes_without_anyone(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        str(SCRIPT),
        "--seed",
        "3",
        "--kinds",
        "nan",
        "returns",
        "--folder",
        str(tmp_path / "runs"),
        "--rows",
        str(rows),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["kind"]: row for row in map(json.loads, rows.read_text().splitlines())}
    assert found["nan"]["kinds"] == ["nonfinite"]
    assert len(found["returns"]["kinds"]) == 2
    assert all(row["closed"] and row["asked"] == 0 for row in found.values())
