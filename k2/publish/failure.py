"""What goes wrong when publishing, told without telling a secret.

`PublishFailed` is the world's failure and may be tried again; `PublishRefused` is a decision that trying again does
not change. Both strip credentials from their text when they are made, since a client's error can quote a signed URL.
"""

import re

from k2.publish.credentials import secret_values

_SHORTEST_SECRET = 6  # a shorter value is no secret, and would blot out parts of words
_USER_OF_URL = re.compile(r"(\w+://)[^/\s@]*@")
_QUERY_OF_URL = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\")]*")


class PublishFailed(ValueError):
    """Something could not be published now. The text says what, where and the fix."""

    def __init__(self, text: str) -> None:
        super().__init__(without_secrets(text))


class PublishRefused(PublishFailed):
    """Something must not be published, or not there: a retry gives the same answer."""


def without_secrets(text: str) -> str:
    """The text without the credentials that publishing has, without users in URLs, and without the queries of URLs."""
    secrets = [value for value in secret_values() if len(value) >= _SHORTEST_SECRET]
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin another
        text = text.replace(secret, "***")
    return _QUERY_OF_URL.sub(r"\1?***", _USER_OF_URL.sub(r"\1", text))
