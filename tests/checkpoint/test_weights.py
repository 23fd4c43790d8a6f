"""Reading a checkpoint's weights: their names, and that nothing but tensors is taken from a file."""

import pickle

import pytest
import torch

from k2.checkpoint.weights import read_weights
from k2.model.layers import build_plain, set_weights, weights_of
from k2.recipe.schema import Model
from k2.run.receipt import BrokenOutput

MODEL = Model(layers=2, hidden=32, ffn=88, heads=4, vocab_rows=97)


@pytest.fixture
def checkpoint(tmp_path):
    """Layer files as DeepSpeed writes them."""
    (tmp_path / "state").mkdir()
    for index, layer in enumerate(build_plain(MODEL, 1e4, seed=4).layers):
        torch.save(layer.state_dict(), tmp_path / "state" / f"layer_{index:02d}-model_00-model_states.pt")
    return tmp_path


def test_the_weights_come_back_by_their_hugging_face_names(checkpoint):
    original, restored = build_plain(MODEL, 1e4, seed=4), build_plain(MODEL, 1e4, seed=5)
    weights = read_weights(checkpoint, MODEL)
    assert weights.keys() == weights_of(original, MODEL).keys()
    set_weights(restored, MODEL, weights)
    tokens_BT = torch.arange(32)[None]
    assert torch.equal(original(tokens_BT), restored(tokens_BT))


def test_a_missing_layer_is_named(checkpoint):
    (checkpoint / "state" / "layer_02-model_00-model_states.pt").unlink()
    with pytest.raises(BrokenOutput, match="layer_02"):
        read_weights(checkpoint, MODEL)


class Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_file_that_would_run_something_is_refused(checkpoint, capsys):
    torch.save({"weight": Trap()}, checkpoint / "state" / "layer_00-model_00-model_states.pt")
    with pytest.raises(pickle.UnpicklingError):
        read_weights(checkpoint, MODEL)
    assert capsys.readouterr().out == ""
