"""Which variables of an environment are secrets, told by their names. Pure.

A process is handed only what its work needs: what neither publishes nor orchestrates gets no credentials, nor the settings
of the services that take them.
"""

import re
from collections.abc import Mapping

_SECRET = re.compile(
    r"TOKEN(?!IZERS)|SECRET|PASSWORD|PASSWD|(^|_)PASS|_PWD$|CREDENTIAL|_AUTH(?!OR)|_KEY$|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY"
    r"|_DSN$|CONNECTION_?STRING|DATABASE_UR[LI]$",
    re.IGNORECASE,
)
_OF_SERVICES = re.compile(r"^(AWS_|PREFECT_|HUGGING_?FACE_)", re.IGNORECASE)


def names_secret(name: str) -> bool:
    """Whether a variable of that name holds a secret, or the way to one."""
    return _SECRET.search(name) is not None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that needs no credentials."""
    return {name: value for name, value in environment.items() if not names_secret(name) and not _OF_SERVICES.search(name)}
