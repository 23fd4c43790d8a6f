"""Upload speed: ours beside boto3's `upload_file` and obstore, to a real S3 server on this machine.

Ours resumes a broken upload and compares the stored object's digest with the file's SHA-256; the others do neither.
The same file goes up in turn, so that a drifting machine meets all of them; the median of each is printed. Beside the speed
stand the CPU-seconds of the client and of the server: where both share the machine, their sum is what limits the speed.

    pip install "obstore>=0.8,<1"    # its line is left out without it
    python benchmarks/upload_speed.py [--megabytes 512] [--rounds 5]
"""

import argparse
import hashlib
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "servers"))

import s3_server
from s3_server import S3Server

from k2.publish.parcel import Item
from k2.publish.s3 import PART_BYTES, S3Store, client_of
from k2.publish.target import S3Target

BUCKET = "k2-speed"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    if reason := s3_server.why_not():
        sys.exit(reason)
    os.environ |= {"AWS_ACCESS_KEY_ID": s3_server.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": s3_server.SECRET_KEY}
    with S3Server() as server, tempfile.TemporaryDirectory() as folder:
        client = client_of(server.url)
        client.create_bucket(Bucket=BUCKET)
        item = _file(Path(folder), asked.megabytes)
        ways = {"ours, digest compared": lambda: _ours(client, item), "boto3 upload_file": lambda: _boto3(server.url, item)}
        if _has_obstore():
            ways["obstore"] = lambda: _obstore(server.url, item)
        _print(asked.megabytes, _measure(ways, asked.rounds, client, [daemon.pid for daemon in server.daemons]))


def _file(folder: Path, megabytes: int) -> Item:
    source = folder / "weights.bin"
    with source.open("wb") as file:
        for block in range(megabytes):
            file.write(hashlib.shake_128(str(block).encode()).digest(1_000_000))
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Item("weights.bin", source, source.stat().st_size, digest)


def _ours(client: Any, item: Item) -> None:
    store = S3Store(client, S3Target(BUCKET, "ours"))
    store.send("weights.bin", item)
    assert store.differs("weights.bin", item) is None


def _boto3(url: str, item: Item) -> None:
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    client = boto3.session.Session().client("s3", endpoint_url=url, region_name="us-east-1", config=config)
    transfer = TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=4, preferred_transfer_client="classic")
    client.upload_file(str(item.source), BUCKET, "boto3/weights.bin", Config=transfer)


def _has_obstore() -> bool:
    try:
        import obstore  # noqa: F401
    except ImportError:
        return False
    return True


def _obstore(url: str, item: Item) -> None:
    import obstore
    from obstore.store import S3Store as ObjectStore

    keys = {"access_key_id": s3_server.ACCESS_KEY, "secret_access_key": s3_server.SECRET_KEY}
    store = ObjectStore(BUCKET, endpoint=url, region="us-east-1", client_options={"allow_http": True}, **keys)
    with item.source.open("rb") as file:
        obstore.put(store, "obstore/weights.bin", file, chunk_size=PART_BYTES, max_concurrency=4)


def _measure(
    ways: dict[str, Callable[[], None]], rounds: int, client: Any, server: list[int]
) -> dict[str, list[tuple[float, float, float]]]:
    """Seconds of each round: by the clock, of the client's CPU, of the server's. The first round warms up and is not counted."""
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, upload in ways.items():
            wall, cpu, theirs = time.monotonic(), _cpu_seconds(), _cpu_seconds_of(server)
            upload()
            if round_number:
                measured[name].append((time.monotonic() - wall, _cpu_seconds() - cpu, _cpu_seconds_of(server) - theirs))
            for key in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
                client.delete_object(Bucket=BUCKET, Key=key["Key"])
    return measured


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_seconds_of(processes: list[int]) -> float:
    stats = (Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split() for process in processes)
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")  # fields 14 and 15 of proc(5)


def _print(megabytes: int, measured: dict[str, list[tuple[float, float, float]]]) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, server on the same machine"
    print(f"{megabytes} MB, parts of {PART_BYTES >> 20} MiB, 4 at a time; {machine}")
    base = statistics.median(wall for wall, _, _ in measured["boto3 upload_file"])
    for name, rounds in measured.items():
        wall, cpu, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
        costs = f"{1000 * cpu / megabytes:5.2f} CPU-s a GB (server {1000 * theirs / megabytes:.2f})"
        print(f"{name:24} {megabytes / wall:7.0f} MB/s   {costs}   {base / wall:5.2f} x boto3")


if __name__ == "__main__":
    main()
