"""What is handed to a trainer: exactly what it needs, and no secret."""

import subprocess
import sys
from pathlib import Path

import pytest

from k2.launch.command import Meeting, Supervision, evaluator_command, trainer_command
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.plan import Train

RECIPE = load_recipe(str(Path(__file__).parents[1] / "mini.toml"))
LAYOUT = RunLayout(Path("/runs/one"))
FRESH, LATER = Train("stage1", 1, None, 1), Train("stage1", 3, "ckpt_002", 17)
SECRETS = {
    "AWS_ACCESS_KEY_ID": "s1",
    "AWS_SESSION_TOKEN": "s2",
    "HF_TOKEN": "s3",
    "HUGGING_FACE_HUB_TOKEN": "s4",
    "WANDB_API_KEY": "s5",
    "PREFECT_API_AUTH_STRING": "s6",
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "OPENAI_API_KEY": "s7",
    "DB_PASSWORD": "s8",
    "GIT_TOKEN": "s9",
    "SMTP_PASS": "s10",
    "DATABASE_URL": "postgres://u:s11@host/db",
    "SENTRY_DSN": "s12",
    "DEPLOY_PRIVATE_KEY": "s13",
}
INHERITED = {
    "PATH": "/bin",
    "HOME": "/root",
    "LD_LIBRARY_PATH": "/lib",
    "RANK": "5",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x",
} | SECRETS


def test_the_trainer_is_torchrun_under_a_supervisor() -> None:
    command = trainer_command(RECIPE, Place(), LAYOUT, LATER, {}, device="cpu", supervision=Supervision(12.0, 3.0), lock=7)
    supervisor, _, rest = " ".join(command.argv[1:]).partition(" -- ")
    launcher, _, trainer = rest.partition(" -m k2.train ")
    assert supervisor == "-m k2.launch.supervise --grace 12.0 --orphan-grace 3.0 --lock-fd 7 --launcher"
    assert launcher == (
        f"{sys.executable} -m torch.distributed.run --standalone --local-addr 127.0.0.1 "  # a host's own name need not resolve
        "--nproc-per-node 2 --max-restarts 0 --shutdown-timeout 5"
    )
    assert trainer == "/runs/one --stage stage1 --attempt 3 --first-step 17 --checkpoint ckpt_002"


def test_a_fresh_start_names_no_checkpoint() -> None:
    assert "--checkpoint" not in trainer_command(RECIPE, Place(), LAYOUT, FRESH, {}, device="cpu").argv


def test_a_node_starts_its_share_and_meets_the_others_at_the_rendezvous() -> None:
    place = Place(device="cpu", nodes=2, rendezvous="10.0.0.1:29500")
    meeting = Meeting(1, "10.0.0.2", "eth1", "0123456789abcdef")
    command = trainer_command(RECIPE, place, LAYOUT, FRESH, {}, device="cpu", meeting=meeting)
    launcher = " ".join(command.argv).partition(" -m torch.distributed.run ")[2].partition(" -m k2.train ")[0]
    assert launcher == (
        "--nnodes 2 --node-rank 1 --local-addr 10.0.0.2 --rdzv-backend static --rdzv-endpoint 10.0.0.1:29500 "
        "--rdzv-id 0123456789abcdef --rdzv-conf timeout=300 --nproc-per-node 1 --max-restarts 0 --shutdown-timeout 5"
    )
    assert (command.environment["GLOO_SOCKET_IFNAME"], command.environment["NCCL_SOCKET_IFNAME"]) == ("eth1", "=eth1")
    assert command.environment["K2_PROCESS"] == "trainer1:/runs/one"


def test_no_secret_and_no_other_launcher_is_handed_down() -> None:
    for command in (
        trainer_command(RECIPE, Place(), LAYOUT, FRESH, INHERITED, device="cpu"),
        evaluator_command(Place(), LAYOUT, INHERITED, requests=8, answers=9),
    ):
        assert not set(command.environment.values()) & set(SECRETS.values())
        assert not {"RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "PREFECT_API_URL"} & set(command.environment)
        assert command.environment["PATH"] == "/bin"
        assert command.environment["LD_LIBRARY_PATH"] == "/lib"


def test_wandb_gets_its_key_only_where_the_place_says_online() -> None:
    command = trainer_command(RECIPE, Place(wandb_mode="online"), LAYOUT, FRESH, INHERITED, device="cpu")
    assert {name for name in SECRETS if name in command.environment} == {"WANDB_API_KEY"}


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_and_device_are_the_places(threads: int) -> None:
    on_cpu = trainer_command(RECIPE, Place(threads_per_rank=threads), LAYOUT, FRESH, {}, device="cpu").environment
    on_cuda = trainer_command(RECIPE, Place(), LAYOUT, FRESH, {"CUDA_VISIBLE_DEVICES": "0,1"}, device="cuda").environment
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["DS_ACCELERATOR"], on_cpu["CUDA_VISIBLE_DEVICES"]) == (str(threads), "cpu", "")
    assert "DS_ACCELERATOR" not in on_cuda
    assert on_cuda["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_ranks_meet_on_the_loopback() -> None:
    environment = trainer_command(RECIPE, Place(), LAYOUT, FRESH, {}, device="cuda").environment
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")


def test_the_evaluator_talks_over_its_own_pipes_and_asks_no_hub() -> None:
    command = evaluator_command(Place(), LAYOUT, {}, requests=8, answers=9, lock=7)
    supervisor, _, evaluator = " ".join(command.argv[1:]).partition(" -- ")
    assert supervisor.endswith("--lock-fd 7 --stdin-fd 8 --stdout-fd 9")
    assert evaluator == f"{sys.executable} -m k2.eval /runs/one --device cpu"
    assert command.environment["HF_HUB_OFFLINE"] == "1"


def test_the_supervisor_starts_without_anything_heavy() -> None:
    script = "import sys, k2.launch.supervise; print(sorted({'pydantic', 'numpy', 'torch', 'prefect'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
