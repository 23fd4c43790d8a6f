import json
from pathlib import Path

import pytest

from k2.recipe.data import TrainedTokenizer
from k2.tokenizer import Tokenizer, train_tokenizer

CORPUS = Path(__file__).parents[1] / "corpus"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [json.loads(line)["text"] for name in ("prose", "code", "law") for line in (CORPUS / f"{name}.jsonl").open("rb")]


@pytest.fixture(scope="session")
def settings() -> TrainedTokenizer:
    return TrainedTokenizer(pieces=430, train_bytes=60_000)


@pytest.fixture(scope="session")
def tokenizer(texts, settings, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(texts, folder, settings, "0" * 64)
    return Tokenizer(folder)
