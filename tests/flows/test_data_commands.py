"""Questions about the data and operations on it, as typed."""

import json
from pathlib import Path

import pytest

from flows.cli import FAILED, HELD, REFUSED, main
from k2.data.build import build
from k2.data.loader import SampleReader
from k2.eval.suite import build_suites
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.lease import hold
from k2.run.ledger import AttemptStarted, append_facts, read_facts
from k2.run.opening import create_or_open, open_run
from k2.run.receipt import read_receipt
from k2.run.records import StepRecord

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "run"
    recipe, place = load_recipe(str(TESTS / "mini.toml")), Place(data_dir=str(TESTS / "corpus"))
    create_or_open(RunLayout(root), recipe, place)
    build(recipe, place, RunLayout(root), lambda _: None)
    return root


@pytest.fixture
def run(prepared: Path) -> RunLayout:
    """Without operations, as nothing was done to it before."""
    layout = RunLayout(prepared)
    layout.ledger.write_bytes(layout.ledger.read_bytes().split(b"\n")[0] + b"\n")
    return layout


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_operation_is_recorded_with_who_when_and_why(run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    common = (str(run.root), "--stage", "stage1", "--why", "shown", "--who", "ada")
    assert main(["data", "reorder", *common, "--position", "0", "--chunks", "1,0"]) == 0
    assert main(["data", "defer", *common, "--position", "1"]) == 0
    assert main(["data", "repeat", *common, "--position", "0", "--at", "2"]) == 0
    assert main(["data", "skip", *common, "--steps", "3-4"]) == 0
    assert main(["data", "skip", *common, "--chunk", "2", "--rows", "0-1", "--json"]) == 0
    assert '"samples_skipped"' in capsys.readouterr().out
    assert main(["data", "order", str(run.root), "--json"]) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    assert (stage["order"], stage["skipped"]) == ([1, 2, 1], [[3, 4]])
    assert stage["skipped_rows"] == [{"chunk": 2, "rows": [[0, 1]]}]
    assert [one["operation"].split(" ")[0] for one in stage["operations"]] == ["position", "position", "chunk", "steps", "rows"]
    assert {(one["who"], one["why"]) for one in stage["operations"]} == {("ada", "shown")}
    assert all(one["when"] for one in stage["operations"])


def test_the_person_at_the_keyboard_is_noted(run: RunLayout) -> None:
    assert main(["data", "defer", str(run.root), "--stage", "stage1", "--position", "0", "--why", "shown"]) == 0
    assert read_facts(run.ledger)[-1].who  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["defer", "--position", "2"], "position 2 is the last of stage1"),
        (["reorder", "--position", "1", "--chunks", "0-1"], "a reordering keeps every chunk"),
        (["skip", "--steps", "24-25"], "are no range of stage1's steps 1 to 24"),
        (["skip", "--steps", "1-2", "--chunk", "1"], "say what to skip"),
        (["repeat", "--position", "1", "--at", "1"], "a chunk is repeated later"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_no_fact(
    run: RunLayout, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = run.ledger.read_bytes()
    command, *rest = arguments
    assert main(["data", command, str(run.root), "--stage", "stage1", "--why", "shown", *rest]) == FAILED
    assert said in capsys.readouterr().err
    assert run.ledger.read_bytes() == before


def test_why_is_never_left_out(run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "defer", str(run.root), "--stage", "stage1", "--position", "0", "--why", " "]) == FAILED
    assert "--why is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["data", "defer", str(run.root), "--stage", "stage1", "--position", "0"])
    assert left.value.code == REFUSED


def test_nothing_is_changed_under_a_running_driver(run: RunLayout) -> None:
    with hold(run):
        assert main(["data", "defer", str(run.root), "--stage", "stage1", "--position", "0", "--why", "shown"]) == HELD


def test_a_step_and_its_documents_on_a_run_with_two_branches(run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    """Attempt 1 trained 16 steps, attempt 2 went on from step 9 with the chunk of position 1 at the end."""
    append_facts(run.ledger, AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1))
    assert main(["data", "defer", str(run.root), "--stage", "stage1", "--position", "1", "--why", "shown"]) == 0
    append_facts(run.ledger, AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_001", first_step=9))
    for attempt, steps in ((1, range(1, 17)), (2, range(9, 13))):
        path = run.metrics("stage1", attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(StepRecord(attempt, "stage1", step, 3.0, 1.0, 1e-3, step, 0.1).line() for step in steps))
    capsys.readouterr()
    step = ["data", "seen", str(run.root), "--stage", "stage1", "--step", "9", "--json"]
    assert main(step) == 0
    now = lines(capsys)
    assert {(s["chunk"], s["attempt"]) for s in now} == {(2, 2)}
    assert main([*step, "--attempt", "1"]) == 0
    assert {(s["chunk"], s["attempt"]) for s in lines(capsys)} == {(1, 1)}
    assert main([*step, "--until", "ckpt_001"]) == 0
    assert lines(capsys) == []
    document = ["data", "seen", str(run.root), "--document", str(now[0]["document"]), "--json"]
    assert main(document) == 0
    assert now[0] in lines(capsys)
    assert main(["data", "order", str(run.root), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["stages"][0]["branches"]
    assert [(b["attempt"], b["first_step"], b["last_step"], b["stands_until"], b["abandoned_from"]) for b in shown] == [
        (1, 1, 16, 8, 9),
        (2, 9, 12, 12, None),
    ]
    assert [b["order"] for b in shown] == [[0, 1, 2], [0, 2, 1]]
    assert main(["data", "order", str(run.root)]) == 0
    assert "attempt 1 from scratch: steps 1 to 16, given up from step 9 on" in capsys.readouterr().out


def test_chunks_go_out_and_come_in_ready_to_train_on(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "export", str(prepared), "--format", "megatron", "--out", str(tmp_path / "m"), "--stage", "stage2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 8
    assert main(["data", "export", str(prepared), "--format", "jsonl", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 3 * 1024 + 1024
    place = tmp_path / "place.toml"
    place.write_text(f'data_dir = "{prepared / "tokenizer"}"\n')
    pieces = load_recipe(str(TESTS / "mini.toml")).tokenizer.pieces
    tokenizer = f'tokenizer={{kind = "file", path = "tokenizer.model", pieces = {pieces}}}'
    arguments = [str(TESTS / "mini.toml"), str(tmp_path / "out"), "--format", "jsonl", "--out", str(tmp_path / "run"), "--set", tokenizer]
    held_out = RunLayout(prepared).held_out
    assert main(["data", "import", *arguments, "--place", str(place), "--held-out", str(held_out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["imported"] == "jsonl"

    layout = RunLayout(tmp_path / "run")
    recipe, there = open_run(layout)
    assert build(recipe, there, layout, lambda _: None) == read_receipt(layout.all_chunks)  # a run finds its data prepared
    build_suites(recipe, there, layout)
    assert read_holdings(recipe, layout, read_facts(layout.ledger)).prepared
    assert SampleReader(recipe, layout, recipe.stages[0], []).step(1).shape == (4, 32)
    assert main(["data", "verify", str(layout.root), "--steps", "2"]) == FAILED
    assert "the rows" in capsys.readouterr().err


def test_steps_are_derived_anew_from_the_command_line(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", str(prepared), "--steps", "3", "--seed", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["bad"], len(found["rederived"]["steps"])) == ([], 3)
    assert main(["data", "verify", str(prepared), "--stage", "stage2", "--step", "4"]) == 0
    assert "2 rows of 1 steps are what" in capsys.readouterr().out
    assert main(["data", "verify", str(prepared), "--step", "4"]) == FAILED
    assert "--stage S --step N" in capsys.readouterr().err
