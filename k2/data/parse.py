"""From the bytes of one record to its text, or to the reason why there is none.

The reasons are few and fixed, since receipts count by them. orjson reads what is well formed; what it refuses is
looked at again by the slower standard library, which tells the reasons apart and keeps a record whose text is whole
although something else in it is odd (`NaN` in a score, an integer of 200 digits).
"""

import json
from typing import Any

NOT_UTF8, NOT_JSON, NO_FIELD, NO_STRING, EMPTY = "not UTF-8", "not JSON", "no text field", "text is no string", "empty"
NOT_ENCODABLE, TOO_LARGE, UNREADABLE, REPEATS = "not encodable", "too large", "unreadable", "repeats itself"
TORN, DAMAGED, BOMB, WINDOW = "torn file", "damaged file", "unfolds more than 250-fold", "needs a window above 128 MB"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Unusable(Exception):
    """A record without a usable text. Its one argument is the reason that is counted."""


def text_of_line(line: bytes, field: str) -> str:
    """The text of one line of JSON: its member `field`, or `a.b` for the member `b` of the member `a`."""
    import orjson

    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return encodable(checked_text(_member(_read_again(line), field)))
    return checked_text(_member(record, field))


def text_of_file(content: bytes) -> str:
    """A whole file as one text, line ends as Python reads them."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable(NOT_UTF8) from None
    return checked_text(text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text)


def text_of_bytes(value: bytes) -> str:
    """The value of a binary column."""
    try:
        return checked_text(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise Unusable(NOT_UTF8) from None


def checked_text(value: Any) -> str:
    """The value, if it is a text that says something."""
    if not isinstance(value, str):
        raise Unusable(NO_STRING)
    if not value or value.isspace():
        raise Unusable(EMPTY)
    return value


def encodable(text: str) -> str:
    """The text, if UTF-8 can hold it: JSON can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable(NOT_ENCODABLE) from None
    return text


def _read_again(line: bytes) -> Any:
    try:
        return json.loads(line.removeprefix(_BYTE_ORDER_MARK).decode("utf-8"))
    except UnicodeDecodeError:
        raise Unusable(NOT_UTF8) from None
    except (ValueError, RecursionError):
        raise Unusable(NOT_JSON) from None


def _member(record: Any, field: str) -> Any:
    if isinstance(record, dict) and field in record:
        return record[field]
    for name in field.split("."):
        if not isinstance(record, dict) or name not in record:
            raise Unusable(NO_FIELD)
        record = record[name]
    return record
