"""Documents that repeat themselves are found exactly, and dropped with a count where the recipe asks for it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from k2.data.build import build
from k2.data.repetition import repeats_itself
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt

TESTS = Path(__file__).parents[1]


def by_hand(ids):
    return any(ids[at : at + size] * 32 == ids[at : at + 32 * size] for size in range(1, 14) for at in range(len(ids) - 32 * size + 1))


@pytest.mark.parametrize("size", [1, 2, 7, 13])
def test_thirty_two_repetitions_anywhere_are_found_and_one_less_is_not(size):
    ngram = list(range(100, 100 + size))
    for before in (0, 1, 5, 30, 31, 32, 500):
        around = list(range(1000, 1000 + before)), list(range(3000, 3030))
        many, few = (np.array([*around[0], *ngram * count, *around[1]], np.uint16) for count in (32, 31))
        assert repeats_itself(many)
        assert not repeats_itself(few)


def test_what_is_found_is_what_a_search_by_hand_finds():
    draw = random.Random(5)
    found = 0
    for _ in range(300):
        ids = []
        while len(ids) < draw.choice((20, 100, 500)):
            ids += [draw.randrange(3) for _ in range(draw.randint(1, 5))] * draw.choice((1, 2, 20, 31, 32, 40))
        assert repeats_itself(np.array(ids, np.uint16)) == by_hand(ids)
        found += by_hand(ids)
    assert 50 < found < 250
    assert not repeats_itself(np.zeros(0, np.uint16))


@pytest.mark.parametrize("asked", ["keep", "drop"])
def test_the_recipe_says_of_each_subset_whether_they_are_dropped(tmp_path, asked):
    for name in ("prose", "code", "law"):
        (tmp_path / f"{name}.jsonl").write_bytes((TESTS / "corpus" / f"{name}.jsonl").read_bytes())
    with (tmp_path / "prose.jsonl").open("a") as lines:
        lines.write(json.dumps({"text": "before " + "g4ODg4OD " * 200}) + "\n")
    recipe = load_recipe(str(TESTS / "mini.toml"), (f'data.subsets.prose.repetitions="{asked}"', "data.held_out=0.0"))
    layout = RunLayout(tmp_path / "run")
    build(recipe, Place(data_dir=str(tmp_path)), layout, lambda _: None)
    dropped = read_receipt(layout.stream("prose")).facts["dropped"]
    assert dropped == ({"repeats itself": 1} if asked == "drop" else {})
