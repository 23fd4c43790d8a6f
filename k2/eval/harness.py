"""lm-eval over one exported checkpoint, through a model class of our own.

Enters: an exported folder, the run's tokenizer, a task of a suite. Leaves: lm-eval's results and per-sample outputs. Only the files of the
tasks that are asked are read, never the harness's 14,000 defaults, and each task is loaded once for all checkpoints. The harness is told
that there is one process: telling it of more changes the few-shot prompts it draws.
"""

import contextlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from k2.eval.generation import Choose, Sampling, generate, greedily, sampled
from k2.eval.likelihood import Request, likelihoods
from k2.eval.tasks import SuiteTask
from k2.tokenizer import Tokenizer

HARNESS = f"lm_eval {lm_eval.__version__}"
_FEWSHOT_SEED = 1234  # lm-eval's own default; set before every checkpoint, or each would get other examples
_DEFAULT_NEW_TOKENS = 256
_PROMPTS_PER_BATCH = 64
_SPARE_TOKENS = 8  # looked at beyond the length of a stop string in bytes, for tokens that have no text


@dataclass(frozen=True)
class LoadedTask:
    """A task ready to ask any checkpoint: what lm-eval's `evaluate` takes, with all leaves of a group."""

    task: SuiteTask
    loaded: dict[str, Any]

    @property
    def leaves(self) -> dict[str, Any]:
        found: dict[str, Any] = self.loaded["tasks"]
        return found


def load_task(task: SuiteTask, suite: Path, desk: Path) -> LoadedTask:
    """Load a task from the harness's files or the suite's, at the suite's number of shots. `desk` is the folder in which it finds its
    data: the suite's own, or one that holds the data sets by name."""
    files = suite.resolve() if task.files is None else Path(lm_eval.__file__).parent / "tasks" / task.files
    with contextlib.chdir(desk):
        loaded = LoadedTask(task, dict(TaskManager(include_path=str(files), include_defaults=False).load(task.name)))
    for leaf in loaded.leaves.values():
        _set_shots(leaf, task.shots)
    return loaded


def evaluate_task(model: "ScoredModel", task: LoadedTask, desk: Path) -> dict[str, Any]:
    """lm-eval's results over the task, with samples. Standard errors are closed forms: nothing is resampled."""
    for leaf in task.leaves.values():
        leaf.set_fewshot_seed(_FEWSHOT_SEED)
    with contextlib.chdir(desk):
        results: dict[str, Any] = evaluate(
            model, task.loaded, log_samples=True, bootstrap_iters=1, confirm_run_unsafe_code=task.task.executes_code
        )
    return results


def _set_shots(leaf: Any, shots: int | None) -> None:
    """As lm-eval's own command does it: a task whose file says 0 keeps 0."""
    in_file = leaf.get_config("num_fewshot")
    if shots is not None and in_file != 0:
        leaf.set_config(key="num_fewshot", value=shots)
    elif in_file is None:
        leaf.set_config(key="num_fewshot", value=0)


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
        """The continuation of each prompt, up to the first of its stop strings. A request that stands there again is a further sample."""
        asked = list(_numbered(requests))
        order = sorted(range(len(asked)), key=lambda i: (str(asked[i].settings), len(asked[i].prompt)))
        texts: dict[int, str] = {}
        for indices in _batches_alike(order, asked):
            texts.update(zip(indices, self._generate([asked[i] for i in indices]), strict=True))
        return [texts[i] for i in range(len(asked))]

    def _windows(self, text: str) -> list[Request]:
        pairs = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1)
        return [Request(tuple(context), tuple(continuation)) for context, continuation in map(make_disjoint_window, pairs)]

    def _generate(self, asked: Sequence["Asked"]) -> list[str]:
        settings = asked[0].settings
        until = _stop_strings(settings)
        # at most half of the model's length is generated: the prompt needs the rest
        max_new = min(int(settings.get("max_gen_toks", _DEFAULT_NEW_TOKENS)), self.max_length // 2)
        ids = [tuple(self.tok_encode(one.prompt) or [self.prefix_token_id])[-(self.max_length - max_new) :] for one in asked]
        made = generate(self.model, ids, max_new, lambda new: self._is_finished(new, until), _choice(settings, asked))
        return [_cut(self._text(new), until) for new in made]

    def _is_finished(self, new: Sequence[int], until: Sequence[str]) -> bool:
        if new[-1] == self.tokenizer.eos:
            return True
        longest = max((len(stop.encode()) for stop in until), default=0)
        tail = self._text(new[-longest - _SPARE_TOKENS :]) if until else ""  # all of it would cost the square of its length
        return any(stop in tail for stop in until)

    def _text(self, made: Sequence[int]) -> str:
        """Generated text. Control and code tokens are left out, and rows of the embedding that no token has: an early model makes them."""
        return self.tokenizer.decode([i for i in made if self.tokenizer.eos < i < self.tokenizer.pieces])


@dataclass(frozen=True)
class Asked:
    """One generation that is asked for: the `sample`-th of its prompt, from 0."""

    prompt: str
    settings: dict[str, Any]
    sample: int

    @property
    def seed(self) -> int:
        """The same for the same prompt and sample, in every run and for every checkpoint."""
        return zlib.crc32(f"{self.sample}:{self.prompt}".encode("utf-8", "surrogatepass"))


def _numbered(requests: Sequence[Any]) -> Iterator[Asked]:
    before: Counter[int] = Counter()
    for request in requests:
        prompt, settings = request.args
        yield Asked(prompt, settings, before[id(request)])
        before[id(request)] += 1


def _choice(settings: dict[str, Any], asked: Sequence[Asked]) -> Choose:
    """How tokens are chosen. A task that does not say is answered greedily, and so is one of temperature 0."""
    temperature = float(settings.get("temperature") or 0.0)
    if not settings.get("do_sample", temperature > 0):
        return greedily
    return sampled(Sampling(temperature or 1.0, float(settings.get("top_p") or 1.0)), [one.seed for one in asked])


def _batches_alike(order: Sequence[int], asked: Sequence[Asked]) -> Iterable[list[int]]:
    """Runs of requests with equal settings, at most `_PROMPTS_PER_BATCH` long."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == _PROMPTS_PER_BATCH or asked[i].settings != asked[batch[0]].settings):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _stop_strings(settings: dict[str, Any]) -> tuple[str, ...]:
    until = settings.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until)


def _cut(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.split(stop, maxsplit=1)[0]
    return text
