"""Any number of workers, of any engine, and any moment of death: the same bytes."""

import json
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prepared import TESTS, Prepared, prepare

from k2.data.audit import verify
from k2.data.build import build
from k2.data.document import DataError
from k2.data.engine import WorkerLost
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import digest_file

SMALL_SHARDS = "data.shard_bytes=4000"  # the corpus of 100 KB becomes 27 shards


def digests(root: Path) -> dict[str, str]:
    """The digest of every file by its name; of a receipt, what it says but the time."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(root))
            receipt = path.suffix == ".json" and "made_at" in json.loads(path.read_bytes())
            found[name] = json.dumps(json.loads(path.read_bytes()) | {"made_at": ""}) if receipt else digest_file(path)
    return found


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("one") / "run", SMALL_SHARDS)


def build_with(root: Path, **place: object) -> Path:
    recipe = load_recipe(str(TESTS / "mini.toml"), (SMALL_SHARDS,))
    build(recipe, Place(data_dir=str(TESTS / "corpus"), **place), RunLayout(root), lambda _: None)
    return root


def test_two_processes_make_the_same_files_as_one(one_worker, tmp_path):
    assert digests(build_with(tmp_path / "run", workers=2)) == digests(one_worker.layout.root)
    assert len(list(one_worker.layout.tokens.glob("*/shard_*"))) > 20


def test_how_the_sources_are_cut_changes_nothing_that_is_trained_on(one_worker, mini):
    for stage in mini.recipe.stages:
        for chunk in range(stage.chunks):
            for path in (RunLayout.chunk, RunLayout.chunk_index):
                ours, theirs = (path(layout, stage.name, chunk).read_bytes() for layout in (one_worker.layout, mini.layout))
                assert ours == theirs
    assert one_worker.layout.held_out.read_bytes() == mini.layout.held_out.read_bytes()


CHILD = """
import sys
from pathlib import Path
from k2.data.build import build
from k2.data.document import DataError
from k2.data.engine import WorkerLost
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], (sys.argv[4],))
    build(recipe, Place(data_dir=sys.argv[2], workers=2), RunLayout(Path(sys.argv[3])), lambda line: print(line, flush=True))
"""


def test_a_build_killed_amid_its_pieces_goes_on_with_another_number_of_workers(one_worker, tmp_path):
    root = tmp_path / "run"
    argv = [sys.executable, "-c", CHILD, str(TESTS / "mini.toml"), str(TESTS / "corpus"), str(root), SMALL_SHARDS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert any(re.match(r"encoded [3-9] of \d+ pieces", line) for line in child.stdout)
        child.kill()
        child.stdout.read()  # ends when the last process that could write is gone: the workers do not outlive the build
    kept = {path: path.read_bytes() for path in root.rglob("receipt.json") if not any(part.startswith(".tmp-") for part in path.parts)}
    assert 3 <= sum("shard_" in str(path) for path in kept) < 27
    build_with(root, workers=1)
    assert all(path.read_bytes() == content for path, content in kept.items()), "a finished shard was made again"
    assert digests(root) == digests(one_worker.layout.root)
    assert verify(root).bad == ()


@pytest.mark.slow
def test_two_dask_workers_make_the_same_files(one_worker, tmp_path):
    assert digests(build_with(tmp_path / "run", engine="dask", workers=2)) == digests(one_worker.layout.root)


def test_an_error_of_a_worker_comes_out_as_it_was(tmp_path):
    (tmp_path / "corpus").mkdir()
    for path in (TESTS / "corpus").glob("*.jsonl"):
        (tmp_path / "corpus" / path.name).write_bytes(path.read_bytes())
    recipe, place = load_recipe(str(TESTS / "mini.toml"), (SMALL_SHARDS,)), Place(data_dir=str(tmp_path / "corpus"), workers=2)

    def remove_code(line: str) -> None:
        if line.startswith("trained"):
            (tmp_path / "corpus" / "code.jsonl").unlink()

    with pytest.raises(DataError, match=r"code.jsonl is gone: the data is made from it, so put it back"):
        build(recipe, place, RunLayout(tmp_path / "run"), remove_code)


def test_a_worker_that_is_killed_ends_the_build_and_what_is_finished_stays(one_worker, tmp_path):
    recipe, root = load_recipe(str(TESTS / "mini.toml"), (SMALL_SHARDS,)), tmp_path / "run"

    def kill_one(line: str) -> None:
        if re.match(r"encoded [3-9] of", line):
            multiprocessing.active_children()[0].kill()

    with pytest.raises(WorkerLost, match="set the place's workers lower and start again"):
        build(recipe, Place(data_dir=str(TESTS / "corpus"), workers=2), RunLayout(root), kill_one)
    assert len(list(root.glob("tokens/*/shard_*"))) >= 3
    assert digests(build_with(root, workers=1)) == digests(one_worker.layout.root)


def test_an_address_that_nobody_would_ask_is_refused():
    with pytest.raises(ValueError, match=r"engine_address = 'tcp://10.0.0.1:8786' has no effect with engine = 'pool'"):
        Place(engine_address="tcp://10.0.0.1:8786")
