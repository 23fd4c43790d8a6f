"""What a Prefect block holds, as the variables that publishing reads; what it must not hold is refused without being quoted."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from flows.credentials import credentials_of, variables_of
from k2.publish.failure import PublishFailed, PublishRefused
from k2.recipe.place import Place

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "canary-1", "HF_TOKEN": "canary-2"}


@pytest.mark.parametrize(
    ("block", "data", "variables"),
    [
        ("secret/store", {"value": json.dumps(KEYS)}, KEYS),
        (
            "aws-credentials/store",
            {
                "aws_access_key_id": "reader",
                "aws_secret_access_key": "canary-1",
                "aws_session_token": None,
                "profile_name": None,
                "region_name": "eu-central-1",
                "aws_client_parameters": {"endpoint_url": "http://store:9000", "use_ssl": True},
                "block_type_slug": "aws-credentials",
            },
            {
                "AWS_ACCESS_KEY_ID": "reader",
                "AWS_SECRET_ACCESS_KEY": "canary-1",
                "AWS_REGION": "eu-central-1",
                "AWS_ENDPOINT_URL": "http://store:9000",
            },
        ),
        (
            "minio-credentials/store",
            {"minio_root_user": "root", "minio_root_password": "canary-1", "aws_client_parameters": None},
            {"AWS_ACCESS_KEY_ID": "root", "AWS_SECRET_ACCESS_KEY": "canary-1"},
        ),
    ],
)
def test_a_block_gives_variables(block: str, data: dict[str, Any], variables: dict[str, str]) -> None:
    assert variables_of(block, data) == variables


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("canary-1", "must hold a JSON object"),
        ("{}", "must hold a JSON object"),
        ('{"HF_TOKEN": ["canary-1"]}', "must hold a JSON object"),
        (None, "must hold a JSON object"),
        ('{"HF_TOKEN": "canary-1", "PATH": "canary-1"}', "holds PATH, which publishing does not use"),
        (KEYS, "which Prefect hides from nobody: save its text"),
    ],
)
def test_what_else_it_holds_is_refused_and_not_quoted(value: object, says: str) -> None:
    with pytest.raises(PublishRefused, match=says) as refused:
        variables_of("secret/store", {"value": value})
    assert "canary" not in str(refused.value)


def test_without_a_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with (
        pytest.raises(PublishFailed, match="none answers at PREFECT_API_URL") as failed,
        credentials_of(Place(credentials=("secret/store",))),
    ):
        pass
    assert not isinstance(failed.value, PublishRefused)  # the server may come back
    with credentials_of(Place()):
        pass


@pytest.mark.parametrize("name", ["store", "github/store", "secret/../store", "secret/", "THEKEYITSELF"])
def test_a_place_names_blocks_and_nothing_else(name: str) -> None:
    with pytest.raises(ValidationError, match="credentials"):
        Place(credentials=(name,))
