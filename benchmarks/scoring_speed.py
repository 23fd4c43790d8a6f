"""How fast are log-likelihood tasks scored? Our scorer and lm-eval's own Hugging Face model, side by side on the same samples.

The model is a Llama of nine million parameters with random weights and a vocabulary of 32,032 rows, on one CPU thread; the questions are
made-up rows in HellaSwag's schema, asked through the harness's unmodified `hellaswag` task. Counted are CPU seconds of the process, which
a busy machine does not stretch. Printed are both, their ratio, and the largest difference between two log-likelihoods.

    python benchmarks/scoring_speed.py [--documents 100] [--shots 0 10]
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1",
    OMP_NUM_THREADS="1",
)  # fmt: skip
PIECES = 32_000
WORDS = "the wall pot brush she he then opens paints slowly red green blue takes water up down on in and of a with from hand".split()  # noqa: SIM905


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100, help="questions, of four options each")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 10])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="k2-scoring-speed-") as folder:
        os.environ.update(HF_HOME=folder, HF_DATASETS_CACHE=folder)
        lay_questions(Path(folder), options.documents)
        model, tokenizer = make_model()
        print(f"{model.num_parameters():,} parameters, {options.documents} questions of 4 options, CPU seconds of one thread")
        for shots in options.shots:
            compare(Path(folder), model, tokenizer, shots)
    return 0


def compare(folder: Path, model: Any, tokenizer: Any, shots: int) -> None:
    """Print one line."""
    from lm_eval.models.huggingface import HFLM

    from k2.eval.harness import ScoredModel

    theirs_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, max_length=2048, add_bos_token=False, prefix_token_id=2)
    theirs, theirs_seconds = score(folder, theirs_model, shots)
    ours, ours_seconds = score(folder, ScoredModel(model, SameTokenizer(tokenizer), 2048), shots)
    difference = max(abs(a - b) for a, b in zip(nats_of(ours), nats_of(theirs), strict=True))
    equal = ours["results"]["hellaswag"]["acc_norm,none"] == theirs["results"]["hellaswag"]["acc_norm,none"]
    print(
        f"{shots:>2}-shot: lm-eval's model {theirs_seconds:.1f} s, ours {ours_seconds:.1f} s, ratio {theirs_seconds / ours_seconds:.1f}; "
        f"largest difference {difference:.1e} nats, acc_norm {'equal' if equal else 'DIFFERS'}",
        flush=True,
    )


def score(folder: Path, model: Any, shots: int) -> tuple[dict[str, Any], float]:
    """lm-eval's results, and the CPU seconds that they took."""
    from k2.eval.harness import evaluate_task, load_task
    from k2.eval.tasks import SuiteTask

    task = load_task(SuiteTask("hellaswag", "hellaswag", shots), folder, folder)
    begun = time.process_time()
    results = evaluate_task(model, task, folder)
    return results, time.process_time() - begun


def nats_of(results: dict[str, Any]) -> list[float]:
    return [answer[0] for sample in results["samples"]["hellaswag"] for answer in sample["filtered_resps"]]


class SameTokenizer:
    """The Hugging Face tokenizer as our scorer asks its own: so both score the same ids."""

    eos, pieces = 2, PIECES

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def make_model() -> tuple[Any, Any]:
    """The model of random weights, and a tokenizer of the words that the questions are made of."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=PIECES + 32, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    pieces = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *vocabulary()])}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return LlamaForCausalLM(shape).eval(), PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>", eos_token="</s>")


def vocabulary() -> list[str]:
    marks = [f"{word}{mark}" for word in WORDS for mark in (".", ",", ":")]
    return [*WORDS, *marks, *(word.capitalize() for word in WORDS)]


def lay_questions(folder: Path, count: int) -> None:
    """Rows in HellaSwag's schema, about as long as its own: contexts of 40 words, endings of 20."""
    import json

    random = Random(0)
    data = folder / "Rowan" / "hellaswag"
    data.mkdir(parents=True)
    for split, rows in (("train", 40), ("validation", count)):
        lines = [json.dumps(question(random, i)) for i in range(rows)]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = [{"split": split, "path": f"{split}.jsonl"} for split in ("train", "validation")]
    (data / "README.md").write_text("---\nconfigs: " + json.dumps([{"config_name": "default", "data_files": files}]) + "\n---\n")


def question(random: Random, i: int) -> dict[str, Any]:
    def words(count: int) -> str:
        return " ".join(random.choices(WORDS, k=count)) + "."

    endings = [words(random.randint(15, 25)) for _ in range(4)]
    return {
        "ind": i, "activity_label": "Painting", "ctx_a": words(random.randint(25, 45)), "ctx_b": "she", "ctx": "", "endings": endings,
        "source_id": f"made~{i}", "split": "val", "split_type": "indomain", "label": str(i % 4),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
