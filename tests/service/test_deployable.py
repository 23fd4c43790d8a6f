"""What is deployed: the shipped file holds, and a slip of the pen is refused at the door."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deploy import load_flow
from flows.deployable import DeploymentsRefused, read_deployments
from flows.server import DEPLOYMENTS

SHIPPED = read_deployments(DEPLOYMENTS)


def altered(tmp_path: Path, **changes: Any) -> Path:
    """The shipped file with fields of its first deployment changed."""
    document = yaml.safe_load(DEPLOYMENTS.read_text())
    document["deployments"][0] |= changes
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_shipped_deployments_are_these() -> None:
    assert [entry.name for entry in SHIPPED.deployments] == ["pretrain", "resume", "evaluate-new", "evaluate", "publish", "answer-overdue"]
    assert [entry.name for entry in SHIPPED.deployments if entry.schedules] == ["evaluate-new"]
    assert all(entry.work_pool.job_variables.stream_output is False for entry in SHIPPED.deployments)
    assert all(entry.concurrency_limit is not None and entry.concurrency_limit.limit == 1 for entry in SHIPPED.deployments)


@pytest.mark.parametrize("entry", SHIPPED.deployments, ids=lambda entry: entry.name)
def test_each_names_a_flow_that_takes_its_parameters_and_they_are_complete(entry: Any) -> None:
    flow = load_flow(entry)
    request = flow.validate_parameters(entry.parameters)["request"]
    assert set(entry.parameters["request"]) == set(type(request).model_fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concurency_limit": {"limit": 1}}, "concurency_limit: Extra inputs are not permitted"),
        ({"concurrency_limit": {"limit": 0}}, "concurrency_limit.limit: Input should be greater"),
        ({"work_pool": {"name": "k3"}}, "work_pool.name: Input should be 'k2'"),
        ({"entrypoint": "flows/pretrain.py:pretrain"}, "entrypoint"),
        ({"schedules": [{"slug": "often", "cron": "* * * * *", "interval": 60}]}, "either cron or interval"),
        ({"schedules": [{"slug": "often", "cron": "* * * * *", "max_scheduled_runs": 3}]}, "max_scheduled_runs"),
        ({"name": "publish"}, "each name may stand once"),
    ],
)
def test_a_slip_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentsRefused, match=message):
        read_deployments(altered(tmp_path, **change))


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text("deployments: [")
    with pytest.raises(DeploymentsRefused, match="cannot be read as YAML"):
        read_deployments(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"request": {"recipe": "k2_tiny", "steps": 5}}}, "does not take these parameters"),
        ({"parameters": {"recipe": "k2_tiny"}}, "does not take these parameters"),
        ({"entrypoint": "flows.pretrain:pretrian"}, "cannot be imported"),
        ({"entrypoint": "flows.pretrain:layout_of"}, "is function, no flow"),
    ],
)
def test_parameters_that_the_flow_does_not_take_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    entry = read_deployments(altered(tmp_path, **change)).deployments[0]
    with pytest.raises(DeploymentsRefused, match=message):
        load_flow(entry)
