"""`k2 doctor`: what it says of this machine through the command line, and its judgements of machines that are not at hand."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flows.cli import main
from flows.doctor.check import Check, Patient
from flows.doctor.devices import Card, Devices, device_of, judge_devices, read_cards
from flows.doctor.machine import Host, cores_allowed, judge_host, memory_limit
from flows.doctor.network import Server, judge_meeting, judge_server, meet
from flows.doctor.outside import judge_wandb
from flows.doctor.software import asked_for, bounds, judge_jail, judge_libraries
from flows.doctor.storage import Ground, judge_ground, judge_room, needs_by_folder, try_out
from flows.doctor.writing import writing_of
from k2.recipe.load import load_recipe
from k2.recipe.place import Place

ROOT = Path(__file__).parents[2]
MINI, CORPUS = str(ROOT / "tests" / "mini.toml"), ROOT / "tests" / "corpus"
TINY, LARGE = load_recipe("k2_tiny"), load_recipe("k2_65b")
HOST = Host(memory=16 << 30, memory_free=15 << 30, cores=2, shared_memory=8 << 30, open_files=1024, compiler="/usr/bin/c++")
H100 = Card("NVIDIA H100 80GB HBM3", 80 << 30, 79 << 30, (9, 0), "580.65.06")
EIGHT = Devices(8, (H100,) * 8, "13.0", False, {})


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "HF_TOKEN", "WANDB_API_KEY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def examined(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, dict[str, object]]]:
    """The command's exit code, and its checks by name."""
    code = main(["doctor", *map(str, arguments), "--json"])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def failing(checks: object) -> list[str]:
    return [check.name for check in checks if not check.ok]  # type: ignore[attr-defined]


def the_only(checks: object) -> Check:
    (one,) = checks  # type: ignore[misc]
    return one


def patient(recipe: str | None = None, **place: object) -> Patient:
    return Patient(None if recipe is None else load_recipe(recipe), Place(**place), Path("/runs")).in_its_world()


def test_a_sound_place_fails_nothing_and_nothing_is_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place.toml"
    place.write_text(f'data_dir = "{CORPUS}"\ndevice = "cpu"\n')
    code, checks = examined(capsys, MINI, "--place", place, "--runs-dir", tmp_path / "deep" / "runs")
    assert code == 0, [check for check in checks.values() if not check["ok"]]
    assert {"libraries", "disk", "memory", "device", "jail", "loopback", "data", "publish to file"} <= set(checks)
    assert all(set(check) >= {"name", "ok", "hint"} for check in checks.values())
    assert str(checks["data"]["found"]).startswith("prose, code, law: 3 files")
    assert [path.name for path in tmp_path.iterdir()] == ["place.toml"]


def test_what_will_fail_is_said_with_its_fix_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").write_text("not a folder")
    place = tmp_path / "place.toml"
    place.write_text(
        f'data_dir = "{tmp_path}"\nevaluator_devices = ["cuda:77"]\nwandb_mode = "online"\n'
        'publish_to = ["s3://bucket/prefix", "hf://owner/name"]\ncredentials = []\nattention = "flash"\ndevice = "cpu"\n'
    )
    code, checks = examined(capsys, MINI, "--place", place, "--set", 'evaluation.suite="k2_21"', "--runs-dir", tmp_path / "runs" / "here")
    wrong = {name for name, check in checks.items() if not check["ok"]}
    assert code == 1
    assert wrong == {
        *("runs directory", "evaluators", "attention", "data", "suite k2_21", "publish to s3", "publish to hf", "W&B")
    }  # fmt: skip
    assert all(checks[name]["hint"] for name in wrong)
    assert "AWS_SECRET_ACCESS_KEY" in str(checks["publish to s3"]["hint"])
    assert "`k2 eval fetch --to DIR`" in str(checks["suite k2_21"]["hint"])
    assert "AKIASECRET" not in json.dumps(checks)


def test_a_password_in_an_address_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://user:hidden@prefect.example/api")
    _, checks = examined(capsys, "--runs-dir", tmp_path)
    assert checks["Prefect server"]["found"] == "https://prefect.example/api lies beyond loopback and was not asked"
    assert "hidden" not in json.dumps(checks)


def test_a_recipe_or_a_place_that_is_refused_is_refused_as_by_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place.toml"
    place.write_text('device = "cpu"\nnodes = 3\nrendezvous = "127.0.0.1:29500"\n')
    assert main(["doctor", MINI, "--place", str(place)]) == 2
    assert "2 ranks cannot be shared evenly by nodes = 3" in capsys.readouterr().err
    assert main(["doctor", "--set", "layout.data=2"]) == 2
    assert "has no effect without a recipe" in capsys.readouterr().err


def test_it_answers_a_person_and_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from flows.cli import main; code = main(sys.argv[1:]); "
        "print('heavy:', *({'torch', 'prefect', 'boto3', 'huggingface_hub', 'wandb', 'numpy'} & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "doctor", "k2_tiny", "--runs-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last, heavy = done.stdout.splitlines()
    assert heavy == "heavy:"
    assert last.endswith("nothing of k2_tiny will fail here")
    assert {line[:5].strip() for line in lines} <= {"ok", "note", ""}


# -- disk ----------------------------------------------------------------------------------------------------------------------


def test_what_a_run_writes_grows_with_what_its_recipe_keeps_and_owes() -> None:
    writing = writing_of(TINY)
    assert writing.checkpoints == (16 + 9) * 4_774_656  # 16 ends of chunks; 9 between them, as retention leaves them
    assert writing.exports == 16 * 1_591_552
    assert writing_of(LARGE).exports < 360 * 130_572_369_920  # only what is scored or published
    weights_alone = writing_of(load_recipe("k2_tiny", ("publishing.state=false", "publishing.data=false")))
    assert writing.published - weights_alone.published == 16 * 4_774_656 + 2 * 1_146_880


def test_the_room_of_one_file_system_is_judged_with_all_that_it_gets(tmp_path: Path) -> None:
    here = Patient(TINY, Place(publish_to=(f"file://{tmp_path}/out/{{run}}", "s3://bucket/x")), tmp_path / "runs")
    needs = needs_by_folder(here, writing_of(TINY))
    assert set(needs) == {tmp_path / "runs", tmp_path / "out" / "RUN"}
    assert judge_room(tmp_path, {"checkpoints": 900, "publication": 200}, 1000).verdict == "fails"
    assert "checkpoints 900 B, publication 200 B" in judge_room(tmp_path, {"checkpoints": 900, "publication": 200}, 1000).found
    assert judge_room(tmp_path, {"checkpoints": 900}, 1000).verdict == "note"
    assert judge_room(tmp_path, {"checkpoints": 500}, 1000).verdict == "ok"


def test_a_folder_is_tried_out_where_it_would_be_made(tmp_path: Path) -> None:
    well = try_out(tmp_path / "not" / "yet")
    assert (well.folder, well.trouble, well.locks) == (tmp_path, None, True)
    assert list(tmp_path.iterdir()) == []
    assert try_out(Path("/proc/k2")).trouble is not None
    (tmp_path / "file").touch()
    assert try_out(tmp_path / "file" / "runs").trouble == f"{tmp_path}/file is a file"


def test_a_runs_directory_that_does_not_lock_or_is_not_shared_is_said() -> None:
    ground = Ground(Path("/mnt"), "nfs")
    assert failing(judge_ground(patient(), replace(ground, locks=False))) == ["runs directory"]
    two = patient(device="cpu", nodes=2, rendezvous="10.0.0.1:29500")
    assert [check.name for check in judge_ground(two, ground)] == ["runs directory"]
    assert [check.name for check in judge_ground(two, replace(ground, file_system="ext4"))] == ["runs directory", "shared by nodes"]
    assert [check.name for check in judge_ground(patient(), replace(ground, skew_seconds=-60.0))] == ["runs directory", "clock"]


# -- the host ------------------------------------------------------------------------------------------------------------------


def test_memory_cores_and_limits_are_held_against_the_ranks_of_this_host() -> None:
    assert failing(judge_host(patient("k2_tiny"), "cpu", HOST)) == []
    assert failing(judge_host(patient("k2_65b"), "cpu", HOST)) == ["memory"]
    assert failing(judge_host(patient("k2_tiny"), "cpu", replace(HOST, memory_free=1 << 29))) == ["memory"]
    assert failing(judge_host(patient("k2_tiny", compile_layers=True), "cpu", replace(HOST, compiler=None))) == ["compiler"]
    small_container = replace(HOST, shared_memory=64 << 20)
    assert failing(judge_host(patient("k2_tiny"), "cpu", small_container)) == []
    assert failing(judge_host(patient("k2_tiny"), "cuda", small_container)) == ["/dev/shm"]
    crowded = {check.name: check.verdict for check in judge_host(patient("k2_tiny", threads_per_rank=2), "cpu", HOST)}
    assert crowded["cores"] == "note"


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/jobs/one\n")
    job = tmp_path / "jobs" / "one"
    job.mkdir(parents=True)
    for folder, limit, used in ((job, "max", "5"), (job.parent, "4000", "1500")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(used + "\n")
    (job.parent / "memory.stat").write_text("anon 700\ninactive_file 500\n")  # a cache is no use that counts
    (job / "cpu.max").write_text("max 100000\n")
    (job.parent / "cpu.max").write_text("150000 100000\n")
    assert memory_limit(tmp_path, own) == (4000, 1000)
    assert cores_allowed(tmp_path, own) == 1.5
    own.write_text("5:memory:/docker\n")
    (tmp_path / "memory" / "docker").mkdir(parents=True)
    (tmp_path / "memory" / "docker" / "memory.limit_in_bytes").write_text("3000\n")
    (tmp_path / "memory" / "docker" / "memory.usage_in_bytes").write_text("1000\n")
    assert memory_limit(tmp_path, own) == (3000, 1000)
    assert memory_limit(tmp_path, tmp_path / "none")[0] > 1 << 50


# -- devices -------------------------------------------------------------------------------------------------------------------


def test_a_device_that_the_place_asks_for_must_be_there() -> None:
    none = Devices(0, (), "13.0", False, {})
    wanted, auto = patient("k2_1b", device="cuda"), patient("k2_1b")
    assert failing(judge_devices(wanted, "cuda", none)) == ["device"]
    assert the_only(c for c in judge_devices(auto, "cpu", none) if c.name == "device").verdict == "note"
    assert failing(judge_devices(wanted, "cuda", replace(EIGHT, torch_cuda=None))) == ["device"]
    assert device_of(auto, replace(EIGHT, torch_cuda=None)) == "cpu"


def test_each_rank_of_the_host_needs_a_device_that_is_to_be_seen_and_large_enough() -> None:
    alone, eight_hosts = patient("k2_65b", device="cuda"), patient("k2_65b", device="cuda", nodes=60, rendezvous="10.0.0.1:29500")
    assert failing(judge_devices(alone, "cuda", EIGHT)) == ["device"]
    assert failing(judge_devices(eight_hosts, "cuda", EIGHT)) == []
    assert failing(judge_devices(eight_hosts, "cuda", replace(EIGHT, inherited={"CUDA_VISIBLE_DEVICES": "0,1"}))) == ["device"]
    small = Card("Some Card", 8 << 30, 8 << 30, (8, 9), "580.65.06")
    said = list(judge_devices(eight_hosts, "cuda", replace(EIGHT, cards=(small,) * 8)))
    assert failing(said) == ["device memory"]
    assert "no MFU" in the_only(check for check in said if check.name == "peak").found
    assert failing(judge_devices(patient("k2_1b", device="cuda", attention="flash"), "cuda", EIGHT)) == ["attention"]


def test_only_the_devices_that_are_to_be_seen_count_and_what_others_leave_of_them() -> None:
    one = patient("k2_1b", device="cuda")
    busy = replace(EIGHT, cards=(replace(H100, memory_free=1 << 30), *EIGHT.cards[1:]))
    assert failing(judge_devices(one, "cuda", busy)) == ["device memory"]
    assert failing(judge_devices(one, "cuda", replace(busy, inherited={"CUDA_VISIBLE_DEVICES": "3"}))) == []
    old = replace(EIGHT, cards=(replace(H100, driver="535.104.05"),) * 8)
    assert failing(judge_devices(one, "cuda", old)) == ["driver"]
    assert failing(judge_devices(one, "cuda", replace(old, torch_cuda="12.8"))) == []


def test_what_the_driver_says_is_read_by_its_form() -> None:
    said = "81559, 81007, 9.0, 580.65.06, NVIDIA H100 80GB HBM3\n" * 2 + "No devices were found\n"
    assert read_cards(said) == (Card("NVIDIA H100 80GB HBM3", 81559 << 20, 81007 << 20, (9, 0), "580.65.06"),) * 2


# -- where processes meet ------------------------------------------------------------------------------------------------------


def test_the_rendezvous_must_be_reached_and_its_port_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        place = Place(device="cpu", nodes=2, rendezvous=taken)
        assert judge_meeting(place, meet(place, taken)).verdict == "fails"
    assert judge_meeting(place, meet(place, taken)).verdict == "ok"
    nowhere = Place(device="cpu", nodes=2, rendezvous="255.255.255.255:29500")
    assert "cannot be reached" in judge_meeting(nowhere, meet(nowhere, "255.255.255.255:29500")).hint


def test_a_server_is_needed_by_blocks_alone() -> None:
    named = Place(credentials=("secret/store",))
    silent = Server("http://127.0.0.1:4200/api", False, False, None, None)
    distant = Server("https://prefect.example/api", None, False, None, None)
    for server in (silent, replace(silent, address=None, answers=None)):
        assert failing(judge_server(named, server)) == ["Prefect server"]
        assert failing(judge_server(Place(), server)) == []
    assert failing(judge_server(named, replace(silent, answers=True))) == []
    configured, _ = judge_server(named, distant)
    assert (configured.verdict, "no password" in configured.hint) == ("note", True)
    assert not judge_wandb({}, False).ok
    assert judge_wandb({"WANDB_API_KEY": "x"}, False).ok


# -- software ------------------------------------------------------------------------------------------------------------------


def test_a_library_beyond_its_bounds_is_named_with_both_versions() -> None:
    wanted = [Requirement("fastapi>=0.139,<0.151"), Requirement("torch>=2.10"), Requirement("prefect>=3.8.8,<4")]
    wrong = list(judge_libraries(wanted, {"fastapi": "0.151.1", "torch": "2.13.0+cpu", "prefect": None}))
    assert failing(wrong) == ["library fastapi", "library prefect"]
    assert wrong[0].found == "0.151.1; k2-pipeline needs fastapi<0.151,>=0.139"
    assert wrong[0].hint == "pip install 'fastapi<0.151,>=0.139'"


def test_the_bounds_are_the_checkouts_and_an_engines_library_is_wanted_where_it_is_used() -> None:
    every = bounds(ROOT / "pyproject.toml")
    names = {one.name for one in asked_for(every, Place())}
    assert {"torch", "prefect", "deepspeed"} <= names
    assert not {"ray", "distributed", "pytest"} & names
    assert {one.name for one in asked_for(every, Place(engine="ray"))} - names == {"ray"}


def test_a_missing_jail_fails_only_where_programs_are_to_be_run() -> None:
    assert judge_jail(patient(run_generated_code=True), "no bubblewrap").verdict == "fails"
    assert judge_jail(patient(), "no bubblewrap").verdict == "note"
    assert "write_function" in judge_jail(patient("k2_tiny"), None).found
    assert judge_jail(patient(run_generated_code=True), None).verdict == "ok"
