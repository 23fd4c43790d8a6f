"""Where the service listens, and what it must not do."""

import socket
from pathlib import Path

import pytest

from flows.server import down
from flows.service import Address, ServiceRefused, Supervised, choose_address, settings

HERE = Address("127.0.0.1", 4200)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_beyond_loopback_a_password_is_demanded(host: str) -> None:
    with pytest.raises(ServiceRefused, match="PREFECT_SERVER_API_AUTH_STRING"):
        choose_address(host, 0, {})
    with pytest.raises(ServiceRefused, match="PREFECT_SERVER_API_AUTH_STRING"):
        choose_address(host, 0, {"PREFECT_SERVER_API_AUTH_STRING": ""})


def test_with_a_password_it_may_listen_anywhere_and_checks_forged_requests() -> None:
    password = {"PREFECT_SERVER_API_AUTH_STRING": "user:pass"}
    address = choose_address("0.0.0.0", 0, password)
    chosen = settings(Path("/runs/.server"), address, password)
    assert chosen["PREFECT_API_AUTH_STRING"] == "user:pass"
    assert chosen["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert address.api_url == f"http://127.0.0.1:{address.port}/api"


def test_a_taken_port_is_refused_and_zero_takes_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceRefused, match=f"port {port} of 127.0.0.1.*--port"):
            choose_address("127.0.0.1", port, {})
        assert choose_address("127.0.0.1", 0, {}).port not in (0, port)


def test_nothing_is_sent_anywhere_and_nothing_is_unpickled() -> None:
    chosen = settings(Path("/runs/.server"), HERE, {})
    assert chosen["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert chosen["DO_NOT_TRACK"] == "1"
    assert chosen["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert chosen["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200"
    assert chosen["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")


def test_a_later_process_of_the_same_number_is_another() -> None:
    assert not Supervised(pid=1, started="never").lives
    assert Supervised.of(1).lives


def test_down_where_nothing_runs_is_nothing(tmp_path: Path) -> None:
    assert down(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
