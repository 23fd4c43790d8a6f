"""Likelihoods equal those of one plain forward pass a request, however requests share contexts and batches."""

from random import Random

import pytest
import torch

from k2.eval.generation import Sampling, generate, sampled
from k2.eval.likelihood import Request, Tree, batches, likelihoods, trees

LENGTH = 48


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    torch.manual_seed(5)
    shape = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH,
        initializer_range=0.5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM._from_config(shape, attn_implementation="sdpa").eval()


def plain(model: torch.nn.Module, request: Request) -> tuple[float, bool]:
    ids = (request.context + request.continuation)[-(LENGTH + 1) :]
    with torch.inference_mode():
        logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0, -len(request.continuation) :]
    targets = torch.tensor(request.continuation)
    nats = float(logits.log_softmax(-1).gather(1, targets[:, None]).sum())
    return nats, bool((logits.argmax(-1) == targets).all())


def drawn_requests(seed: int) -> list[Request]:
    """Contexts of all lengths, some longer than the model's, each asked with several continuations, some of one token."""
    random = Random(seed)
    requests = []
    for _ in range(30):
        context = tuple(random.randrange(3, 100) for _ in range(random.choice((1, 2, 9, 30, 47, 48, 70))))
        for _ in range(random.choice((1, 2, 4, 7))):
            requests.append(Request(context, tuple(random.randrange(3, 100) for _ in range(random.choice((1, 1, 2, 5, 20, 48))))))
    random.shuffle(requests)
    return requests


@pytest.mark.parametrize("seed", range(3))
def test_they_equal_one_forward_pass_a_request(model: torch.nn.Module, seed: int) -> None:
    requests = drawn_requests(seed)
    for answer, request in zip(likelihoods(model, requests, LENGTH), requests, strict=True):
        nats, greedy = plain(model, request)
        assert answer.nats == pytest.approx(nats, abs=1e-4 * len(request.continuation))
        assert answer.greedy == greedy


def test_what_greedy_decoding_makes_is_called_greedy(model: torch.nn.Module) -> None:
    prompts = [(2, 5, 9), (2, 77), (2, 5, 9, 11, 12, 13)]
    made = generate(model, prompts, 5, lambda new: False)
    asked = [Request(prompt, tuple(new)) for prompt, new in zip(prompts, made, strict=True)]
    assert [len(new) for new in made] == [5, 5, 5]
    assert all(answer.greedy for answer in likelihoods(model, asked, LENGTH))


def test_generations_equal_those_of_transformers(model: torch.nn.Module) -> None:
    random = Random(9)
    prompts = [tuple(random.randrange(3, 100) for _ in range(n)) for n in (1, 4, 13, 40)]
    made = generate(model, prompts, 6, lambda new: False)
    for prompt, new in zip(prompts, made, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=6, min_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert new == theirs[0, len(prompt) :].tolist()


def test_generation_ends_when_every_row_is_finished(model: torch.nn.Module) -> None:
    made = generate(model, [(2, 5), (2, 6)], 20, lambda new: len(new) == 3)
    assert [len(new) for new in made] == [3, 3]


def test_options_share_their_context_and_windows_of_text_do_not() -> None:
    context = tuple(range(10, 30))
    options = trees([Request(context, (i, i + 1)) for i in range(4)], LENGTH)
    assert [(len(t.branches), t.length) for t in options] == [(4, 24)]
    windows = trees([Request((2,), tuple(range(40))) for _ in range(4)], LENGTH)
    assert [len(t.branches) for t in windows] == [1, 1, 1, 1]


def test_batches_hold_every_tree_once_within_the_budget() -> None:
    forest = [Tree(tuple(range(n)), ((n, (1,)),)) for n in (50, 3, 20, 7, 90, 21)]
    made = list(batches(forest, tokens=60))
    assert sorted(t.length for batch in made for t in batch) == [3, 7, 20, 21, 50, 90]
    assert all(len(batch) == 1 or max(t.length for t in batch) * len(batch) <= 60 for batch in made)


@pytest.mark.parametrize("request_", [Request((), (1,)), Request((1,), ()), Request((1,), tuple(range(LENGTH + 1)))])
def test_a_request_that_cannot_be_scored_is_refused(model: torch.nn.Module, request_: Request) -> None:
    with pytest.raises(ValueError, match="cannot be scored"):
        likelihoods(model, [request_], LENGTH)


def test_a_row_draws_the_same_whatever_stands_beside_it(model: torch.nn.Module) -> None:
    prompts, seeds = [(2, 5, 9), (2, 6), (2, 5, 9), (2, 7, 8, 9)], [1, 2, 3, 4]
    together = generate(model, prompts, 8, lambda new: False, sampled(Sampling(1.5), seeds))
    alone = [generate(model, [p], 8, lambda new: False, sampled(Sampling(1.5), [s]))[0] for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone
    assert together[0] != together[2]  # the same prompt, another sample


def test_draws_follow_the_probabilities_and_stay_within_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, 4)
    drawn = sampled(Sampling(1.0), range(4000))(logits)[:, 0]
    shares = [(drawn == token).float().mean().item() for token in range(4)]
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    kept = sampled(Sampling(1.0, top_p=0.75), range(4000))(logits)[:, 0]
    assert set(kept.tolist()) == {0, 1}  # 0.5 is not enough, 0.8 is
    cold = sampled(Sampling(0.01), range(4000))(logits)[:, 0]
    assert set(cold.tolist()) == {0}
    with pytest.raises(ValueError, match="set do_sample to false"):
        Sampling(0.0)
