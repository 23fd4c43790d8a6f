"""Targets: what they mean, and the names that are refused."""

from pathlib import Path

import pytest

from k2.publish.target import FolderTarget, HubTarget, S3Target, TargetError, parse_target, resolve_targets
from k2.recipe.place import Place
from k2.run.layout import RunLayout


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("file:///srv/models", FolderTarget(Path("/srv/models"))),
        ("file:///srv/runs/../models", FolderTarget(Path("/srv/models"))),
        ("s3://k2-models", S3Target("k2-models", "")),
        ("s3://k2-models/tiny/run-1/", S3Target("k2-models", "tiny/run-1")),
        ("hf://LLM360/K2", HubTarget("LLM360", "K2")),
    ],
)
def test_a_target_is_read_and_written_back(text: str, target: object) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


def test_a_relative_folder_lies_under_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_target("file://out/here") == FolderTarget(tmp_path / "out" / "here")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models",
        "/srv/models",
        "file://",
        "http://169.254.169.254/latest",
        "ftp://host/x",
        "s3://",
        "s3://A-Bucket/x",
        "s3://ab",
        "s3://two..dots/x",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/.hidden",
        "s3://bucket/a b",
        "s3://bucket?endpoint=http://evil/",
        "hf://LLM360",
        "hf://LLM360/K2/main",
        "hf://../K2",
        "hf://LLM360/K2--x",
        "hf:///K2",
    ],
)
def test_odd_targets_are_refused_with_the_form_that_works(text: str) -> None:
    with pytest.raises(TargetError, match=r"file:///folder|for instance|letters"):
        parse_target(text)


def test_credentials_in_a_target_are_refused_and_not_repeated() -> None:
    with pytest.raises(TargetError) as caught:
        parse_target("s3://AKIAKEY:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
    assert "environment" in str(caught.value)


def test_placeholders_are_filled_in(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "runs" / "tiny-1")
    place = Place(publish_to=("file://{runs_dir}/../published/{run}", "s3://k2-models/{run}", "s3://k2-models/{run}/"))
    assert resolve_targets(place, layout) == (FolderTarget(tmp_path / "published" / "tiny-1"), S3Target("k2-models", "tiny-1"))


def test_what_a_place_must_not_say(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "runs" / "tiny-1")
    for publish_to, said in (
        ((), "names no target"),
        (("s3://models/{owner}",), "{owner}"),
        (("file://{runs_dir}/{run}/exports",), "inside the run"),
    ):
        with pytest.raises(TargetError, match=said):
            resolve_targets(Place(publish_to=publish_to), layout)
