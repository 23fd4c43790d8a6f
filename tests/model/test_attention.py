"""Attention and RoPE: at the last positions of K2's context, against Hugging Face's Llama, between documents and backends.

Shapes: B samples, T positions, H heads, K head width, V vocabulary rows.
"""

import math
from functools import cache

import pytest
import torch
from hugging_face import hugging_face_llama
from torch import Tensor, nn

from k2.model.attention import attention_in_documents, causal_attention, document_starts, rotate
from k2.model.backend import HOPPER, Backend, Machine, choose_backend, this_machine
from k2.model.layers import build_plain, weights_of
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import END_OF_DOCUMENT, Model

CONTEXT = 8192  # K2's stage 2
SHARP = Model(layers=2, hidden=64, ffn=88, heads=2, vocab_rows=97, init_std=0.3)  # so that attention is far from even


def tokens(rows: int, positions: int) -> Tensor:
    return torch.randint(3, SHARP.vocab_rows, (rows, positions), generator=torch.Generator().manual_seed(5))


@cache
def both(rope_base: float) -> tuple[nn.Module, nn.Module, Tensor]:
    """Our model, Hugging Face's with its weights, and the latter's logits in float32."""
    ours, theirs = build_plain(SHARP, rope_base, seed=3), hugging_face_llama(SHARP, rope_base, CONTEXT)
    theirs.load_state_dict(weights_of(ours, SHARP), strict=True)
    with torch.no_grad():
        return ours, theirs, theirs(tokens(1, CONTEXT)).logits


def errors(logits: Tensor, expected: Tensor) -> tuple[float, float]:
    """Root mean square difference over the first and over the last 1,024 positions."""
    square_T = (logits.float() - expected).square().mean(dim=(0, 2))
    return square_T[:1024].mean().sqrt().item(), square_T[-1024:].mean().sqrt().item()


def furthest(logits: Tensor, expected: Tensor) -> float:
    return (logits.float() - expected)[:, -64:].abs().max().item()


@pytest.mark.parametrize("rope_base", [10_000.0, 500_000.0])
def test_logits_at_the_last_positions_equal_hugging_face(rope_base):
    ours, _, expected = both(rope_base)
    with torch.no_grad():
        assert furthest(ours(tokens(1, CONTEXT)), expected) <= 2e-5


@pytest.mark.parametrize("rope_base", [10_000.0, 500_000.0])
def test_in_bfloat16_late_positions_are_turned_as_well_as_early_ones(rope_base):
    """Against Hugging Face in float32. Its model cast whole, angles included, shows what this would see."""
    _, theirs, expected = both(rope_base)
    cast_whole = hugging_face_llama(SHARP, rope_base, CONTEXT)
    cast_whole.load_state_dict(theirs.state_dict())
    cast_whole.bfloat16()
    with torch.no_grad():
        low = build_plain(SHARP, rope_base, seed=3).bfloat16()(tokens(1, CONTEXT))
        early, late = errors(low, expected)
        _, late_cast = errors(cast_whole(tokens(1, CONTEXT)).logits, expected)
        cast_whole.model.rotary_emb.inv_freq = theirs.model.rotary_emb.inv_freq  # as from_pretrained keeps it
        _, late_theirs = errors(cast_whole(tokens(1, CONTEXT)).logits, expected)
    assert late <= 1.5 * early
    assert late <= late_theirs
    assert late_cast > 10 * late


def test_rope_keeps_its_angles_in_bfloat16():
    x_BTHK = torch.zeros(1, CONTEXT, 1, 128, dtype=torch.bfloat16)
    x_BTHK[..., 0] = 1.0  # the fastest pair: its angle at position p is p radians
    turned = rotate(x_BTHK, 10_000.0)
    assert turned.dtype == torch.bfloat16
    assert turned[0, CONTEXT - 1, 0, 0].item() == pytest.approx(math.cos(CONTEXT - 1), abs=4e-3)
    assert turned[0, CONTEXT - 1, 0, 64].item() == pytest.approx(math.sin(CONTEXT - 1), abs=4e-3)


def test_casting_the_model_changes_no_angle():
    model = build_plain(SHARP, 10_000.0).bfloat16()
    assert not list(model.buffers())
    assert not [name for name, value in vars(model.layers[1].self_attn).items() if isinstance(value, Tensor)]


def test_documents_begin_after_each_end():
    end = END_OF_DOCUMENT
    rows_BT = torch.tensor([[5, 6, end, 7, end, 8], [end, 5, 6, 7, 8, end]])
    assert document_starts(rows_BT).tolist() == [[0, 0, 0, 3, 3, 5], [0, 1, 1, 1, 1, 1]]


def test_a_document_is_read_as_if_it_stood_alone():
    model = build_plain(SHARP, 10_000.0, seed=3, span="document")
    first, second = tokens(1, 41), tokens(1, 60)[:, :23]
    first[0, -1] = END_OF_DOCUMENT
    alone = build_plain(SHARP, 10_000.0, seed=3)
    with torch.no_grad():
        together = model(torch.cat((first, second), dim=1))
        assert (together[:, :41] - alone(first)).abs().max() <= 1e-5
        assert (together[:, 41:] - alone(second)).abs().max() <= 1e-5
        assert (alone(torch.cat((first, second), dim=1))[:, 41:] - alone(second)).abs().max() > 1e-2  # K2: across documents


def test_a_row_of_one_document_is_plain_causal_attention():
    q, k, v = torch.randn(3, 2, 33, 4, 16, generator=torch.Generator().manual_seed(1))
    one_document_BT = torch.zeros(2, 33, dtype=torch.int32)
    assert (attention_in_documents(q, k, v, one_document_BT) - causal_attention(q, k, v)).abs().max() <= 1e-6


def backends_here() -> list[Backend]:
    """Those that can run on this machine: torch's own everywhere, cuDNN and flash-attn on a GPU."""
    machine = this_machine("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu: list[Backend] = ["cudnn", *(["flash"] if machine.flash_installed else [])]
    return ["sdpa", *(on_gpu if machine.capability else [])]


@pytest.mark.parametrize("backend", backends_here())
def test_backends_agree_with_attention_written_out(backend):
    device, dtype = ("cpu", torch.float32) if backend == "sdpa" else ("cuda", torch.bfloat16)
    q, k, v = torch.randn(3, 2, 70, 4, 64, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    scores_BHTT = torch.einsum("bthk,bshk->bhts", q.float(), k.float()) / math.sqrt(64)
    scores_BHTT = scores_BHTT.masked_fill(torch.ones(70, 70, device=device).triu(1).bool(), -math.inf)
    expected = torch.einsum("bhts,bshk->bthk", scores_BHTT.softmax(-1), v.float())
    assert (causal_attention(q, k, v, backend).float() - expected).abs().max() <= (2e-6 if dtype == torch.float32 else 2e-2)


K2_1B, MINI = load_recipe("k2_1b"), load_recipe("k2_1b", ('layout.precision="fp32"',))
IN_DOCUMENTS = load_recipe("k2_1b", ('stages.stage2.attention_span="document"',))
AMPERE, BLACKWELL = (8, 0), (10, 0)


@pytest.mark.parametrize(
    ("recipe", "capability", "flash", "chosen"),
    [
        (K2_1B, None, True, "sdpa"),
        (K2_1B, HOPPER, True, "cudnn"),
        (K2_1B, HOPPER, False, "cudnn"),
        (K2_1B, AMPERE, True, "flash"),
        (K2_1B, AMPERE, False, "sdpa"),
        (K2_1B, BLACKWELL, False, "sdpa"),
        (MINI, HOPPER, True, "sdpa"),
        (IN_DOCUMENTS, HOPPER, True, "sdpa"),
    ],
)
def test_auto_takes_the_fastest_known_for_the_device(recipe, capability, flash, chosen):
    assert choose_backend(recipe, Place(), Machine(capability, flash)) == chosen


@pytest.mark.parametrize(
    ("recipe", "asked", "machine", "said"),
    [
        (K2_1B, "flash", Machine(AMPERE, False), "not installed here; install k2-pipeline"),
        (K2_1B, "flash", Machine(None, True), 'place.attention = "flash" does not go with a CPU'),
        (K2_1B, "cudnn", Machine(None, False), "a CPU"),
        (MINI, "cudnn", Machine(HOPPER, False), "fp32"),
        (IN_DOCUMENTS, "flash", Machine(HOPPER, True), "document"),
    ],
)
def test_a_wish_that_cannot_be_had_is_refused(recipe, asked, machine, said):
    with pytest.raises(ValueError, match=said):
        choose_backend(recipe, Place(attention=asked), machine)


@pytest.mark.parametrize("asked", ["flash", "cudnn", "sdpa"])
def test_a_wish_is_granted_where_it_can_be(asked):
    assert choose_backend(K2_1B, Place(attention=asked), Machine(AMPERE, True)) == asked
