"""Settings for a while: what Prefect's client reads from the environment when it is imported or asked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_environment(chosen: dict[str, str]) -> Iterator[None]:
    """The variables as chosen, and afterwards as they were."""
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
