"""Who may know whom: the layers of the house, read from every import in the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "k2").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])

LAYERS = {
    "k2.recipe": 0, "k2.run": 0,
    "k2.tokenizer": 1, "k2.data": 1, "k2.model": 1, "k2.checkpoint": 1, "k2.watch": 1, "k2.publish": 1, "k2.report": 1, "k2.estimate": 1,
    "k2.train": 2, "k2.eval": 2,
    "k2.launch": 3,
}  # fmt: skip
SIDEWAYS = {("k2.data", "k2.tokenizer"), ("k2.checkpoint", "k2.model"), ("k2.estimate", "k2.model")}
ONLY = {
    "k2.train": {"k2.data", "k2.model", "k2.checkpoint", "k2.watch"},
    "k2.eval": {"k2.tokenizer", "k2.model", "k2.checkpoint"},
    "k2.launch": set(),
}
LIBRARIES = {
    "torch": ("k2/model/", "k2/train/", "k2/checkpoint/", "k2/eval/"),
    "prefect": ("flows/",),
    "boto3": ("k2/publish/", "k2/data/remote.py"),
    "botocore": ("k2/publish/", "k2/data/remote.py"),
    "huggingface_hub": ("k2/publish/", "k2/eval/fetch.py", "k2/data/remote.py"),
    "wandb": ("k2/watch/wandb_sink.py",),
    "deepspeed": ("k2/train/",),
    "transformers": ("k2/checkpoint/", "k2/eval/"),
    "lm_eval": ("k2/eval/",),
}
TORCH_FREE = (
    "k2/checkpoint/select.py",
    "k2/checkpoint/retention.py",
    "k2/checkpoint/scrub.py",
    "k2/checkpoint/commit.py",
    "k2/checkpoint/shard.py",
    "k2/checkpoint/state.py",
    "k2/eval/suite.py",
    "k2/eval/scores.py",
    "k2/eval/standing.py",
    "k2/model/count.py",
    "k2/train/schedule.py",
)


def imports_of(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def package_of(module: str) -> str | None:
    return next((name for name in LAYERS if module == name or module.startswith(name + ".")), None)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    here = package_of(module_of(path))
    for name in imports_of(path):
        assert not name.startswith("infra"), f"{path}: nothing imports infra"
        if name == "flows" or name.startswith("flows."):
            assert path.is_relative_to(ROOT / "flows"), f"{path}: k2 never imports flows"
        there = package_of(name)
        if here is None or there is None or here == there or LAYERS[there] == 0:
            continue
        if here in ONLY:
            assert there in ONLY[here], f"{path}: {here} may not import {there}"
        else:
            assert LAYERS[there] < LAYERS[here] or (here, there) in SIDEWAYS, f"{path}: {here} may not import {there}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    for name in imports_of(path):
        library = name.split(".")[0]
        if library in LIBRARIES:
            assert where.startswith(LIBRARIES[library]), f"{where} imports {library}"
        assert not (library in {"torch", "transformers", "lm_eval"} and where in TORCH_FREE), f"{where} is free of torch"


def loaded_by(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(' '.join(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("flow", sorted((ROOT / "flows").rglob("*.py")), ids=module_of)
def test_no_flow_loads_torch(flow: Path) -> None:
    assert not loaded_by(f"import {module_of(flow)}") & {"torch", "deepspeed", "transformers", "lm_eval"}


def test_the_command_line_starts_light() -> None:
    assert not loaded_by("import flows.cli") & {"torch", "prefect", "boto3", "huggingface_hub", "wandb", "transformers", "lm_eval"}
    assert not loaded_by("import k2.launch.supervise") & {"pydantic", "numpy"}


FORBIDDEN = {
    "import pickle": "nothing is unpickled",
    "cloudpickle": "nothing is unpickled",
    "shell=True": "argument lists only",
    "yaml.load(": "safe_load only",
    "allow_pickle=True": "arrays carry no objects",
    "trust_remote_code=True": "no foreign code",
    "os.system(": "argument lists only",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_unsafe_calls(path: Path) -> None:
    text = path.read_text()
    for call, rule in FORBIDDEN.items():
        assert call not in text, f"{path}: {call}: {rule}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), f"{path}:{node.lineno}"


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by their name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
