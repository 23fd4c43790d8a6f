"""Where publishing finds credentials and endpoints: in the environment of the process, or in what was lent to one task.

What is lent (from the blocks of an orchestrator) is seen by the code that runs inside `lent` and by no other: it never
enters the environment, which every thread reads and every child inherits. Variables are named as in the environment.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from k2.run.secrets import names_secret

AWS_KEYS = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}
LENDABLE = (*AWS_KEYS, "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "HF_TOKEN", "HF_ENDPOINT")
_LENT: ContextVar[Mapping[str, str]] = ContextVar("lent", default={})  # noqa: B039 (never written to)


@contextmanager
def lent(variables: Mapping[str, str]) -> Iterator[None]:
    """While it lasts, these variables count before those of the environment, for this thread's code alone."""
    token = _LENT.set(variables)
    try:
        yield
    finally:
        _LENT.reset(token)


def setting(name: str) -> str | None:
    """The variable as it was lent, or else as the environment has it. None where it is missing or empty."""
    return _LENT.get().get(name) or os.environ.get(name) or None


def lent_aws_keys() -> dict[str, str]:
    """The keys that were lent, as boto3's session takes them: all or none come from the loan, never half of each."""
    variables = _LENT.get()
    if "AWS_ACCESS_KEY_ID" in variables:
        return {argument: variables[name] for name, argument in AWS_KEYS.items() if name in variables}
    return {"profile_name": variables["AWS_PROFILE"]} if "AWS_PROFILE" in variables else {}


def secret_values() -> list[str]:
    """Every value that must not be told."""
    known = (*os.environ.items(), *_LENT.get().items())
    return [value for name, value in known if names_secret(name)]
