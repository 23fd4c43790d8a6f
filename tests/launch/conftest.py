"""A rig for each test, and nothing of it left behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_rig import Rig

from k2.launch.command import mark
from k2.launch.strays import end_strays


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    end_strays(mark("trainer", rig.layout))
    end_strays(mark("evaluator", rig.layout))
