"""A run to publish, and a bucket to publish it to."""

import logging
from pathlib import Path
from typing import Any

import pytest
from laid_run import Run

from k2.publish.target import S3Target


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs")


@pytest.fixture
def bucket(client: Any, request: pytest.FixtureRequest) -> S3Target:
    """A new bucket for this test, and a prefix in it."""
    name = f"k2-{abs(hash(request.node.nodeid)) % 10**12}"
    client.create_bucket(Bucket=name)
    return S3Target(name, "models/mini-1")


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Every logger, the libraries' too, at its most talkative."""
    caplog.set_level(logging.DEBUG)
    for name in ("botocore", "boto3", "s3transfer", "huggingface_hub", "httpx2", "httpcore2", "urllib3", "k2"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog
