"""What of DeepSpeed and torch the code does not touch, because it fails or does wrong without a word.

The checkpoints are shards and receipts of our own, so DeepSpeed's way of saving and loading has no part in them. Read
from the syntax of every source; `tests/train/test_traps.py` says which trap each rule is for.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "k2").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
METHODS = {
    "load_checkpoint": "without its file `latest` it returns nothing, and training starts from scratch",
    "save_checkpoint": "it writes `latest` before the other ranks are done, and a zero_to_fp32.py that fails on pipelines",
    "save_16bit_model": "it writes beside our receipts",
}
WORDS = {
    "latest": "the newest checkpoint is the newest that verifies, no file names it",
    "zero_to_fp32": "it fails on checkpoints of a pipeline",
    "ds_to_universal": "our shards know no layout: there is nothing to convert",
    "universal_checkpoint_info": "our shards know no layout: there is nothing to convert",
}


def violations(source: str) -> Iterator[str]:
    """One line for each rule that this source breaks."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield f"line {node.lineno}: {node.attr}: {METHODS[node.attr]}"
        for word in _words(node):
            if word in WORDS:
                yield f"line {getattr(node, 'lineno', '?')}: {word}: {WORDS[word]}"
        if isinstance(node, ast.ImportFrom | ast.Import) and any(name.startswith("deepspeed.checkpoint") for name in _words(node)):
            yield f"line {node.lineno}: deepspeed.checkpoint reads with pickle"
        yield from _switched_on(node)
    yield from _reentrant(tree)


def _words(node: ast.AST) -> list[str]:
    """What the node names: a constant text, or the modules and names of an import with all their parts."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    return names + [part for name in names for part in name.split(".")]


def _switched_on(node: ast.AST) -> Iterator[str]:
    """`use_reentrant` or `load_universal` that is anything but False, as a key or as an argument."""
    pairs: list[tuple[object, ast.expr]] = []
    if isinstance(node, ast.Dict):
        pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant)]
    elif isinstance(node, ast.Call):
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
    for name, value in pairs:
        if name in {"use_reentrant", "load_universal"} and ast.unparse(value) != "False":
            yield f"line {value.lineno}: {name} is {ast.unparse(value)}"


def _reentrant(tree: ast.Module) -> Iterator[str]:
    """Calls of torch's `checkpoint` that leave its kind to the default, reentrant: token ids have no gradient."""
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "torch.utils.checkpoint"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or "reentrant" in str([keyword.arg for keyword in node.keywords]):
            continue
        if ast.unparse(node.func) in ours & {"checkpoint"} | {"torch.utils.checkpoint.checkpoint"}:
            yield f"line {node.lineno}: checkpoint without use_reentrant=False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_of_it_is_used(path: Path) -> None:
    assert not list(violations(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "engine.load_checkpoint(folder)",
        "engine.save_checkpoint(folder, save_latest=True)",
        "(folder / 'latest').read_text()",
        "import deepspeed.checkpoint.ds_to_universal",
        "from deepspeed.checkpoint import ds_to_universal",
        "from deepspeed.utils.zero_to_fp32 import load_state_dict_from_zero_checkpoint",
        "document = {'checkpoint': {'load_universal': True}}",
        "document = {'pipeline': {'use_reentrant': True}}",
        "from torch.utils.checkpoint import checkpoint\ncheckpoint(block, x)",
        "import torch\ntorch.utils.checkpoint.checkpoint(block, x)",
    ],
)
def test_each_use_would_be_seen(source: str) -> None:
    assert list(violations(source))
