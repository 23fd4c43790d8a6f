"""Reading a checkpoint's weights: their names, from any layout's pieces, and that nothing but numbers is taken from a file."""

import numpy as np
import pytest
import torch

from k2.checkpoint.shard import STATE, Piece, Slice, shard_name, write_shard
from k2.checkpoint.state import StateReader
from k2.checkpoint.weights import read_weights, write_weights_as_state
from k2.model.layers import build_plain, set_weights, weights_of
from k2.recipe.schema import Model
from k2.run.receipt import BrokenOutput, digest_file

MODEL = Model(layers=2, hidden=32, ffn=88, heads=4, vocab_rows=97)


def test_the_weights_come_back_by_their_hugging_face_names(tmp_path):
    original, restored = build_plain(MODEL, 1e4, seed=4), build_plain(MODEL, 1e4, seed=5)
    write_weights_as_state(tmp_path, weights_of(original, MODEL))
    weights = read_weights(tmp_path)
    assert weights.keys() == weights_of(original, MODEL).keys()
    set_weights(restored, MODEL, weights)
    tokens_BT = torch.arange(32)[None]
    assert torch.equal(original(tokens_BT), restored(tokens_BT))


GRID = np.arange(48, dtype=np.float32).reshape(6, 8)
KINDS = ("master", "exp_avg", "exp_avg_sq")
LAYOUTS = {  # each rank's pieces: slice, first element, length
    "whole": [(Slice(), 0, 48)],
    "three data ranks": [(Slice(), 0, 17), (Slice(), 17, 20), (Slice(), 37, 11)],
    "two tensor ranks by rows": [(Slice(0, 0, 2), 0, 24), (Slice(0, 1, 2), 0, 24)],
    "two tensor by columns, two data": [
        (Slice(1, 0, 2), 0, 10), (Slice(1, 0, 2), 10, 14), (Slice(1, 1, 2), 0, 10), (Slice(1, 1, 2), 10, 14)],
}  # fmt: skip


def save(folder, layout):
    (folder / STATE).mkdir(parents=True)
    for rank, (cut, start, length) in enumerate(layout):
        own = np.split(GRID, cut.parts, axis=cut.axis)[cut.part].reshape(-1)[start : start + length]
        numbers = {kind: np.ascontiguousarray(own + factor).data for factor, kind in enumerate(KINDS)}
        file = write_shard(folder / STATE / shard_name(rank), [(Piece("w", GRID.shape, start, length, cut), numbers)], updates=3)
        assert file.sha256 == digest_file(folder / file.path)  # digested while written


@pytest.mark.parametrize("saved", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("wanted", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_is_served_from_every_other(tmp_path, saved, wanted):
    save(tmp_path, saved)
    with StateReader(tmp_path) as state:
        assert state.updates == 3
        for factor, kind in enumerate(KINDS):
            assert np.array_equal(state.whole("w", kind), GRID + factor)
            for cut, start, length in wanted:
                own = np.split(GRID + factor, cut.parts, axis=cut.axis)[cut.part].reshape(-1)[start : start + length]
                assert np.array_equal(state.piece(Piece("w", GRID.shape, start, length, cut), kind), own)


def test_a_lost_share_is_named(tmp_path):
    save(tmp_path, LAYOUTS["three data ranks"])
    (tmp_path / STATE / shard_name(1)).unlink()
    with StateReader(tmp_path) as state, pytest.raises(BrokenOutput, match="lacks elements 17 to 48 of w"):
        state.whole("w")


def test_shares_of_different_updates_are_no_state(tmp_path):
    save(tmp_path, LAYOUTS["whole"])
    write_shard(tmp_path / STATE / shard_name(1), [(Piece("v", (1,), 0, 1), {"master": np.zeros(1, np.float32).data})], updates=2)
    with pytest.raises(BrokenOutput, match="different updates"):
        StateReader(tmp_path)


class Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_file_that_would_run_something_is_refused(tmp_path, capsys):
    save(tmp_path, LAYOUTS["whole"])
    torch.save({"weight": Trap()}, tmp_path / STATE / shard_name(0))
    with pytest.raises(BrokenOutput, match="no readable share"):
        read_weights(tmp_path)
    assert capsys.readouterr().out == ""
