"""Ranks without a launcher: one process imports torch and DeepSpeed, and every world forks from it.

Starting eleven ranks that each import them takes longer than all that the tests train. The trainer itself is launched
by torchrun, and the journeys see it so.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist


def in_ranks(world: int, work: Callable[[], None]) -> None:
    """Run `work` in `world` forked ranks that find each other as under torchrun. The first that fails ends the others and is an error."""
    reads, writes = os.pipe()
    ranks = [_fork(rank, world, reads, work) for rank in range(world)]
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # after forking: it runs a thread
    os.write(writes, f"{store.port:5}".encode() * world)
    for _ in range(world):
        ended, status = os.wait()
        ranks.remove(ended)
        if status:
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
                os.waitpid(rank, 0)
            raise RuntimeError(f"a rank of {world} ended with status {status}")
    os.close(reads)
    os.close(writes)


def _fork(rank: int, world: int, port: int, work: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"MASTER_PORT": os.read(port, 5).decode().strip(), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        work()
        dist.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run_script(script: str, *arguments: str) -> str:
    """Run one of this folder's scripts that forks ranks; its standard output."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    argv = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    ran = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
