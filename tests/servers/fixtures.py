"""The servers as fixtures of every test, with their endpoints and credentials in the environment."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import s3_server
from hub_server import TOKEN, HubServer
from s3_server import S3Server


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    if reason := s3_server.why_not():
        pytest.skip(reason)
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with its endpoint and keys in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return s3_process


@pytest.fixture
def client(s3: S3Server) -> Any:
    """A client of the tests' own, to look into the store and to disturb it."""
    return s3.connect()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub on loopback, with its endpoint and token in the environment."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
