"""A mirror is filled from a folder or a hub, once; what is missing is said, and scripts are never taken."""

import json
from pathlib import Path

import pytest

from flows.cli import main
from k2.eval.fetch import _describe_configurations, fetch
from k2.eval.mirror import data_digest, missing_in
from tests.eval.mirror_rows import lay_mirror

SILENT = print


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_mirror(tmp_path_factory.mktemp("brought"))


def test_a_folder_fills_a_mirror_once(brought: Path, tmp_path: Path) -> None:
    to = tmp_path / "mirror"
    first = fetch(to, str(brought), False, SILENT)
    assert first.missing == ()
    assert len(first.data_sets) == 18
    assert {d.source for d in first.data_sets} == {str(brought / d.name) for d in first.data_sets}
    assert all(d.digest == data_digest(brought, d.name) for d in first.data_sets)
    assert [d.rows for d in first.data_sets if d.name == "allenai/ai2_arc"] == [("ARC-easy (5-shot)", "ARC-challenge (25-shot)")]
    again = fetch(to, str(tmp_path / "gone"), False, SILENT)
    assert [d.source for d in again.data_sets] == [None] * 18
    assert [d.digest for d in again.data_sets] == [d.digest for d in first.data_sets]
    assert json.loads((to / "mirror.json").read_text())["missing"] == []


def test_what_is_missing_is_said_and_the_rest_is_fetched(brought: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few"
    (few / "openai").mkdir(parents=True)
    (few / "openai" / "gsm8k").symlink_to(brought / "openai" / "gsm8k")
    assert main(["eval", "fetch", "--to", str(tmp_path / "mirror"), "--from", str(few), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [d["name"] for d in told["data_sets"]] == ["openai/gsm8k"]
    assert len(told["missing"]) == 17
    assert "does not exist" in told["reasons"]["cais/mmlu"]
    assert not [path for path in (tmp_path / "mirror").rglob(".tmp-*")]
    assert main(["eval", "fetch", "--to", str(tmp_path / "mirror"), "--offline"]) == 1
    assert "1 data sets; 17 are missing: EleutherAI/race, GBaker" in capsys.readouterr().out
    assert main(["eval", "fetch"]) == 2


def test_a_hub_that_cannot_be_reached_leaves_everything_missing(tmp_path: Path) -> None:
    fetched = fetch(tmp_path, "http://127.0.0.1:9", False, SILENT)
    assert len(fetched.missing) == len(fetched.reasons) == 18
    assert len(missing_in(tmp_path)) == 18


def test_the_hubs_conversion_is_described_as_its_configurations(tmp_path: Path) -> None:
    for part in ("fold0/train", "fold0/test", "fold1/test"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "0000.parquet").write_bytes(b"")
    _describe_configurations(tmp_path)
    described = json.loads((tmp_path / "README.md").read_text().split("configs: ")[1].split("\n---")[0])
    assert described == [
        {
            "config_name": "fold0",
            "data_files": [{"split": "test", "path": "fold0/test/*.parquet"}, {"split": "train", "path": "fold0/train/*.parquet"}],
        },
        {"config_name": "fold1", "data_files": [{"split": "test", "path": "fold1/test/*.parquet"}]},
    ]
