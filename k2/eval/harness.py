"""lm-eval over one exported checkpoint, through a model class of our own.

Enters: an exported folder, the run's tokenizer, a suite's folder. Leaves: lm-eval's results and per-sample outputs. Tasks come from the
suite's own files, never from the harness's 14,000 defaults, and are loaded once for all checkpoints. The harness is told that there is
one process: telling it of more changes the few-shot prompts it draws.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from k2.eval.likelihood import Request, generate_greedily, likelihoods
from k2.run.receipt import Receipt, read_receipt
from k2.tokenizer import Tokenizer

HARNESS = f"lm_eval {lm_eval.__version__}"
_FEWSHOT_SEED = 1234  # lm-eval's own default; set before every checkpoint, or each would get other examples
_DEFAULT_NEW_TOKENS = 256
_PROMPTS_PER_BATCH = 64


@dataclass(frozen=True)
class LoadedSuite:
    """A suite's tasks, ready to ask any checkpoint, and the receipt that names its data."""

    receipt: Receipt
    tasks: dict[str, Any]


def load_suite(folder: Path) -> LoadedSuite:
    """Load the tasks of a suite's folder. Their data files are named relative to it."""
    receipt = read_receipt(folder)
    manager = TaskManager(include_path=str(folder.resolve()), include_defaults=False)
    with contextlib.chdir(folder):
        return LoadedSuite(receipt, manager.load(manager.all_tasks))


def evaluate_suite(model: "ScoredModel", suite: LoadedSuite) -> dict[str, Any]:
    """lm-eval's results over every task, with samples. Standard errors are closed forms: nothing is resampled."""
    for task in suite.tasks["tasks"].values():
        task.set_fewshot_seed(_FEWSHOT_SEED)
    results: dict[str, Any] = evaluate(model, suite.tasks, log_samples=True, bootstrap_iters=1)
    return results


class ScoredModel(TemplateLM):  # type: ignore[misc]
    """A Hugging Face causal model as lm-eval asks it. In training `</s>` stood before a document, never `<s>`: so it does here
    where there is no context."""

    def __init__(self, model: Any, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.tokenizer.encode(string)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[tuple[float, bool]]:
        asked = [Request(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return [(answer.nats, answer.greedy) for answer in likelihoods(self.model, asked, self.max_length)]

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows of the model's length that predict every token once."""
        windows = [self._windows(request.args[0]) for request in requests]
        answers = iter(likelihoods(self.model, [window for text in windows for window in text], self.max_length))
        return [sum(next(answers).nats for _ in text) for text in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy continuation of each prompt, up to the first of its stop strings."""
        order = sorted(range(len(requests)), key=lambda i: (str(requests[i].args[1]), len(requests[i].args[0])))
        texts: dict[int, str] = {}
        for settings, indices in _batches_alike(order, requests):
            texts.update(zip(indices, self._generate([requests[i].args[0] for i in indices], settings), strict=True))
        return [texts[i] for i in range(len(requests))]

    def _windows(self, text: str) -> list[Request]:
        pairs = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1)
        return [Request(tuple(context), tuple(continuation)) for context, continuation in map(make_disjoint_window, pairs)]

    def _generate(self, prompts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        if settings.get("do_sample") or settings.get("temperature"):
            raise ValueError(f"generation_kwargs {settings} ask for sampling; this harness decodes greedily: set do_sample to false")
        until, max_new = _stop_strings(settings), int(settings.get("max_gen_toks", _DEFAULT_NEW_TOKENS))
        ids = [tuple(self.tok_encode(prompt))[-(self.max_length - max_new) :] for prompt in prompts]
        made = generate_greedily(
            self.model, ids, max_new, lambda new: new[-1] == self.tokenizer.eos or any(stop in self._text(new) for stop in until)
        )
        return [_cut(self._text(new), until) for new in made]

    def _text(self, made: Sequence[int]) -> str:
        """Generated text. Control and code tokens are left out, and rows of the embedding that no token has: an early model makes them."""
        return self.tokenizer.decode([i for i in made if self.tokenizer.eos < i < self.tokenizer.pieces])


def _batches_alike(order: Sequence[int], requests: Sequence[Any]) -> Iterable[tuple[dict[str, Any], list[int]]]:
    """Runs of requests with equal settings, at most `_PROMPTS_PER_BATCH` long."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == _PROMPTS_PER_BATCH or requests[i].args[1] != requests[batch[0]].args[1]):
            yield requests[batch[0]].args[1], batch
            batch = []
        batch.append(i)
    if batch:
        yield requests[batch[0]].args[1], batch


def _stop_strings(settings: dict[str, Any]) -> tuple[str, ...]:
    until = settings.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until)


def _cut(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.split(stop, maxsplit=1)[0]
    return text
