"""Credentials from Prefect blocks, lent to the task that publishes and to nothing else.

A place names blocks, never what they hold: `secret/NAME`, a Secret whose value is the text of a JSON object of environment variables,
or the blocks of prefect-aws, `aws-credentials/NAME` and `minio-credentials/NAME`, which need not be installed to be read. They are
read anew for each task, so that what is renewed in the UI counts from the next one on.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flows.prefect_api import server_answers
from k2.publish.credentials import LENDABLE, lent
from k2.publish.failure import PublishFailed, PublishRefused
from k2.recipe.place import Place

_OF_BLOCKS = {  # the fields of prefect-aws's blocks, as variables
    "aws-credentials": {
        "aws_access_key_id": "AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "aws_session_token": "AWS_SESSION_TOKEN",
        "profile_name": "AWS_PROFILE",
        "region_name": "AWS_REGION",
    },
    "minio-credentials": {
        "minio_root_user": "AWS_ACCESS_KEY_ID",
        "minio_root_password": "AWS_SECRET_ACCESS_KEY",
        "region_name": "AWS_REGION",
    },
}


@contextmanager
def credentials_of(place: Place) -> Iterator[None]:
    """While it lasts, publishing has what the place's blocks hold. `PublishFailed` where they cannot be read."""
    with lent({} if not place.credentials else read_blocks(place.credentials)):
        yield


def read_blocks(names: tuple[str, ...]) -> dict[str, str]:
    """The variables that the blocks hold; of two that give the same one, the later counts."""
    if not server_answers():
        raise PublishFailed(
            f"place.credentials = {list(names)} names blocks of a Prefect server, and none answers at PREFECT_API_URL: start it with "
            "`k2 up` and set the address, or leave the field out and set the variables themselves"
        )
    variables: dict[str, str] = {}
    for name in names:
        variables |= variables_of(name, _read(name))
    return variables


def variables_of(block: str, data: Mapping[str, Any]) -> dict[str, str]:
    """What a block holds, as environment variables. `PublishRefused` for one that holds something else; no value is quoted."""
    kind = block.partition("/")[0]
    if kind == "secret":
        return _checked(block, _parsed(block, data.get("value")))
    endpoint = (data.get("aws_client_parameters") or {}).get("endpoint_url")
    held = {variable: data[field] for field, variable in _OF_BLOCKS[kind].items() if data.get(field)}
    return _checked(block, held | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}))


def _read(name: str) -> dict[str, Any]:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    kind, _, own = name.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(own, kind, include_secrets=True).data
        except ObjectNotFound:
            raise PublishRefused(
                f"place.credentials names the block {name}, which the Prefect server does not have: create it there"
            ) from None


def _parsed(block: str, value: object) -> object:
    """A secret's text as JSON. Prefect shows a secret that is an object to whoever reads its blocks: it only blots out text."""
    if isinstance(value, dict):
        raise PublishRefused(
            f"the block {block} holds an object, which Prefect hides from nobody: save its text, Secret(value=json.dumps(...))"
        )
    try:
        return json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _checked(block: str, held: object) -> dict[str, str]:
    if not isinstance(held, dict) or not held or not all(isinstance(value, str) for value in held.values()):
        raise PublishRefused(f'the block {block} must hold a JSON object of variables, such as {{"AWS_ACCESS_KEY_ID": "...", ...}}')
    if unknown := sorted(set(held) - set(LENDABLE)):
        raise PublishRefused(f"the block {block} holds {', '.join(unknown)}, which publishing does not use; it takes {', '.join(LENDABLE)}")
    return held
