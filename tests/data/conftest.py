"""A prepared mini run, made once; tests that damage something work on their own copy."""

import shutil

import pytest
from prepared import Prepared, prepare

from k2.run.layout import RunLayout


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("mini") / "run")


@pytest.fixture
def own_copy(mini, tmp_path) -> Prepared:
    shutil.copytree(mini.layout.root, tmp_path / "run")
    return Prepared(mini.recipe, mini.place, RunLayout(tmp_path / "run"))
