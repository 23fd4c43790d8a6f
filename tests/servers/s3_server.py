"""A real S3 server on loopback: OpenStack Swift with its S3 interface, for one test session.

Swift lives in a virtual environment of its own (`K2_S3_VENV`, or `.venv-s3` in the checkout), since its pins are not
ours. Four daemons on free ports keep their state in one temporary folder, so that killing and starting them again
finds what was stored. Sources: Swift's "SAIO" guide and sample configurations, reduced to one replica on one device.
"""

import configparser
import ctypes
import getpass
import os
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic, sleep
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
ACCESS_KEY, SECRET_KEY = "test:tester", "planted-7f3a9c-tell-nobody"  # Swift's tempauth writes a user as account:name
STORES = ("account", "container", "object")
PIPELINE = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "s3api",
    "tempauth",
    "copy",
    "slo",  # multipart uploads are static large objects
    "dlo",
    "versioned_writes",
    "symlink",
)
_LIBC = ctypes.CDLL(None)
START_SECONDS = 120  # 4 to 5 on a quiet machine, 32 at a load of 14 on two cores


def find_swift() -> Path | None:
    """The `bin` folder of the environment that Swift is installed in."""
    venv = Path(os.environ.get("K2_S3_VENV", CHECKOUT / ".venv-s3"))
    return venv / "bin" if (venv / "bin" / "swift-proxy-server").is_file() else None


def find_folder() -> Path | None:
    """A folder whose file system keeps user attributes, as Swift stores an object's metadata in them."""
    for folder in (Path(tempfile.gettempdir()), Path("/var/tmp"), CHECKOUT):
        if _keeps_attributes(folder):
            return folder
    return None


def why_not() -> str | None:
    """Why the server cannot be started here, or None."""
    if find_swift() is None:
        return "no Swift here: python3 -m venv .venv-s3 && .venv-s3/bin/pip install 'swift>=2.38,<2.39' 'setuptools<81', or set K2_S3_VENV"
    if find_folder() is None:
        return "no file system with user attributes under the temporary folder, /var/tmp or the checkout: Swift needs them"
    return None


class S3Server:
    """The four daemons. Use it as a context; `kill` and `start` play a crash."""

    def __init__(self) -> None:
        swift, folder = find_swift(), find_folder()
        assert swift is not None and folder is not None, why_not()
        self.swift = swift
        self._temporary = tempfile.TemporaryDirectory(prefix="k2-s3-", dir=folder)
        self.root = Path(self._temporary.name)
        self.ports = dict(zip((*STORES, "proxy"), _free_ports(4), strict=True))
        self.daemons: list[subprocess.Popen[bytes]] = []
        self._write_configuration()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def connect(self) -> Any:
        """A client of the tests' own, whatever the environment says."""
        import boto3
        from botocore.config import Config

        config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 2})
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        return boto3.session.Session().client("s3", endpoint_url=self.url, region_name="us-east-1", config=config, **keys)

    def __enter__(self) -> "S3Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._temporary.cleanup()

    def start(self) -> None:
        """Start the daemons and wait until the S3 interface answers."""
        for name in self.ports:
            with (self.root / f"{name}.log").open("ab") as log:
                daemon = subprocess.Popen(
                    [str(self.swift / f"swift-{name}-server"), str(self.root / f"{name}-server.conf")],
                    stdout=log,
                    stderr=log,
                    env={"PATH": os.environ["PATH"], "SWIFT_DIR": str(self.root), "HOME": str(self.root)},
                    preexec_fn=_die_with_parent,  # noqa: PLW1509  one call into a library that is loaded already
                )
            self.daemons.append(daemon)
        self._wait()

    def kill(self) -> None:
        """End every daemon at once, as a crash does (SIGKILL). Nothing is left running."""
        for daemon in self.daemons:
            daemon.kill()
        for daemon in self.daemons:
            daemon.wait()
        self.daemons.clear()

    def _wait(self) -> None:
        deadline = monotonic() + START_SECONDS
        while not (self._answers("healthcheck") and all(_is_open(port) for port in self.ports.values())):
            dead = [d.args for d in self.daemons if d.poll() is not None]
            if dead or monotonic() > deadline:
                logs = "".join((self.root / f"{name}.log").read_text(errors="replace")[-1000:] for name in self.ports)
                self.kill()
                raise RuntimeError(f"Swift did not start within {START_SECONDS} s (ended: {dead}): {logs}")
            sleep(0.05)

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/{path}", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _write_configuration(self) -> None:
        (self.root / "node" / "d1").mkdir(parents=True)
        _write(
            self.root / "swift.conf",
            {
                "swift-hash": {"swift_hash_path_prefix": "k2", "swift_hash_path_suffix": "k2"},
                "storage-policy:0": {"name": "one", "default": "yes"},
            },
        )
        for name in STORES:
            _write(
                self.root / f"{name}-server.conf",
                {
                    "DEFAULT": self._daemon(name)
                    | {"devices": str(self.root / "node"), "mount_check": "false", "disable_fallocate": "true"},
                    "pipeline:main": {"pipeline": f"{name}-server"},
                    f"app:{name}-server": {"use": f"egg:swift#{name}", "recon_cache_path": str(self.root)},
                },
            )
            self._build_ring(name)
        _write(self.root / "proxy-server.conf", self._proxy())

    def _daemon(self, name: str) -> dict[str, str]:
        # workers = 0: the daemon serves in its own process, so that killing it leaves no child holding the port
        return {
            "bind_ip": "127.0.0.1",
            "bind_port": str(self.ports[name]),
            "workers": "0",
            "user": getpass.getuser(),
            "swift_dir": str(self.root),
            "log_address": str(self.root / "no-syslog"),
        }

    def _proxy(self) -> dict[str, dict[str, str]]:
        filters = {f"filter:{name}": {"use": f"egg:swift#{name}"} for name in PIPELINE}
        filters["filter:tempauth"]["user_test_tester"] = f"{SECRET_KEY} .admin"
        filters["filter:versioned_writes"]["allow_object_versioning"] = "true"
        filters["filter:s3api"] |= {
            "s3_acl": "false",
            "location": "us-east-1",
            "dns_compliant_bucket_names": "false",
            "check_bucket_owner": "false",
            "min_segment_size": str(5 << 20),
        }
        return {
            "DEFAULT": self._daemon("proxy"),
            "pipeline:main": {"pipeline": " ".join((*PIPELINE, "proxy-server"))},
            "app:proxy-server": {"use": "egg:swift#proxy", "allow_account_management": "true", "account_autocreate": "true"},
        } | filters

    def _build_ring(self, name: str) -> None:
        builder = [str(self.swift / "swift-ring-builder"), f"{name}.builder"]
        device = f"r1z1-127.0.0.1:{self.ports[name]}/d1"
        for arguments in (["create", "4", "1", "1"], ["add", device, "1"], ["rebalance"]):
            subprocess.run([*builder, *arguments], cwd=self.root, check=True, stdout=subprocess.DEVNULL)


def _write(path: Path, sections: dict[str, dict[str, str]]) -> None:
    configuration = configparser.RawConfigParser()
    configuration.read_dict(sections)
    with path.open("w") as file:
        configuration.write(file)


def _keeps_attributes(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.setxattr(file.name, "user.k2", b"1" * 1024)
            return True
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed test session leaves no daemon
