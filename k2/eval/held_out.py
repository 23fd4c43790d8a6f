"""Questions made from held-out text: pure functions of the documents, the same for the same text.

Enters: the documents kept from training. Leaves: the rows of the tasks of `suites/k2_tiny`, as lm-eval reads them.
Choices are drawn from generators seeded by the task's name alone, so that two runs over the same text ask the same.
"""

import io
import keyword
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
_NUM_OPTIONS = 4
_CONTEXT_LINES = 8
_FIRST_LINES = 2
_CONTEXT_CHARACTERS = 240  # about 80 tokens: fits the shorter context of k2_tiny
_SHORTEST_NAME = 3
_PASSAGE_CHARACTERS = 400
_FEWEST_WORDS = 4
_PAIR_CHARACTERS = 30  # a whole sentence is one answer, which must fit the shortest context there is: 32 tokens in the tests
_SHORTEST_PASSAGE = 64


@dataclass(frozen=True)
class HeldOutDocument:
    """One document kept from training."""

    id: str
    subset: str
    text: str


@dataclass(frozen=True)
class IdentifierQuestion:
    """Which of `options` follows `context`? All occur in it, and those of the right one's length were taken first, as a likelihood
    favours short options. `right` counts from 0."""

    document: str
    subset: str
    context: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class NamesQuestion:
    """Which of `options` does the code after `context` use? `right` has a mark for each: 1 for those that stand in the next lines."""

    document: str
    subset: str
    context: str
    options: tuple[str, ...]
    right: tuple[int, ...]


@dataclass(frozen=True)
class SwappedPair:
    """A line of text, and the same with two of its words swapped."""

    document: str
    subset: str
    original: str
    swapped: str


@dataclass(frozen=True)
class Passage:
    """A piece of text whose every byte is to be predicted."""

    document: str
    subset: str
    text: str


@dataclass(frozen=True)
class Sum:
    """`question` is "3 + 4 =", `answer` "7", `right` its position among four numbers."""

    question: str
    answer: str
    options: tuple[str, ...]
    right: int


Question = IdentifierQuestion | NamesQuestion | SwappedPair | Passage | Sum


def row(question: Question) -> dict[str, Any]:
    """The question as a row of a task's data file."""
    return asdict(question)


def identifier_questions(documents: Sequence[HeldOutDocument], count: int) -> list[IdentifierQuestion]:
    """Up to `count` questions, spread over the documents that are Python."""
    random = Random("next_identifier")  # noqa: S311 (a draw, not a secret)
    per_document = []
    for document in sorted(documents, key=lambda d: d.id):
        found = list(_candidates(document, random))
        random.shuffle(found)
        per_document.append(found)
    return _in_turns(per_document)[:count]


def passages(documents: Sequence[HeldOutDocument], count: int) -> list[Passage]:
    """Up to `count` passages, spread over the subsets."""
    random = Random("bits_per_byte")  # noqa: S311 (a draw, not a secret)
    by_subset: dict[str, list[Passage]] = {}
    for document in sorted(documents, key=lambda d: (d.subset, d.id)):
        by_subset.setdefault(document.subset, []).extend(_cut(document))
    for found in by_subset.values():
        random.shuffle(found)
    return _in_turns(list(by_subset.values()))[:count]


def names_used(documents: Sequence[HeldOutDocument], count: int) -> list[NamesQuestion]:
    """Up to `count` questions, spread over the documents that are Python. The wrong names are other documents'."""
    random = Random("names_used")  # noqa: S311 (a draw, not a secret)
    ordered = sorted(documents, key=lambda d: d.id)
    vocabulary = sorted({name for document in ordered for name, _, _ in _names(document.text)})
    return _in_turns([list(_names_questions(document, vocabulary, random)) for document in ordered])[:count]


def swapped_words(documents: Sequence[HeldOutDocument], count: int) -> list[SwappedPair]:
    """Up to `count` pairs, spread over the subsets: the first words of a line, two different ones of which change places."""
    random = Random("swapped_words")  # noqa: S311 (a draw, not a secret)
    by_subset: dict[str, list[SwappedPair]] = {}
    for document in sorted(documents, key=lambda d: (d.subset, d.id)):
        by_subset.setdefault(document.subset, []).extend(_pairs(document, random))
    for found in by_subset.values():
        random.shuffle(found)
    return _in_turns(list(by_subset.values()))[:count]


def sums(count: int) -> list[Sum]:
    """`count` different sums of two digits."""
    random = Random("addition")  # noqa: S311 (a draw, not a secret)
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    return [_sum(a, b, random) for a, b in random.sample(pairs, count)]


def _sum(a: int, b: int, random: Random) -> Sum:
    near = [a + b + d for d in (-10, -2, -1, 1, 2, 10) if a + b + d > 0]
    options = [a + b, *random.sample(near, _NUM_OPTIONS - 1)]
    random.shuffle(options)
    return Sum(f"{a} + {b} =", str(a + b), tuple(str(o) for o in options), options.index(a + b))


def _candidates(document: HeldOutDocument, random: Random) -> Iterator[IdentifierQuestion]:
    """Every place of the document where a question can be asked."""
    lines = document.text.splitlines(keepends=True)
    names = _names(document.text)
    for position, (name, row_number, column) in enumerate(names):
        context = _context_before(lines, row_number, column)
        first_row = row_number - _CONTEXT_LINES
        near = {n for n, r, _ in names[max(0, position - 200) : position] if r >= first_row and n in context}
        others = sorted(near - {name}, key=lambda other: (abs(len(other) - len(name)), other))
        if name in near and len(others) >= _NUM_OPTIONS - 1:
            options = [name, *others[: _NUM_OPTIONS - 1]]
            random.shuffle(options)
            yield IdentifierQuestion(document.id, document.subset, context, tuple(options), options.index(name))


def _names_questions(document: HeldOutDocument, vocabulary: Sequence[str], random: Random) -> Iterator[NamesQuestion]:
    """A question at every few lines of the document."""
    lines, names = document.text.splitlines(keepends=True), _names(document.text)
    own = {name for name, _, _ in names}
    foreign = [name for name in vocabulary if name not in own]
    for start in range(_FIRST_LINES, len(lines) - _CONTEXT_LINES, _CONTEXT_LINES):
        used = sorted({name for name, row_number, _ in names if start <= row_number < start + _CONTEXT_LINES})
        if len(used) >= _NUM_OPTIONS // 2 and len(foreign) >= _NUM_OPTIONS // 2:
            options = [*random.sample(used, _NUM_OPTIONS // 2), *random.sample(foreign, _NUM_OPTIONS // 2)]
            random.shuffle(options)
            context = _context_before(lines, start, 0) + "# names: "
            yield NamesQuestion(document.id, document.subset, context, tuple(options), tuple(int(name in used) for name in options))


def _pairs(document: HeldOutDocument, random: Random) -> Iterator[SwappedPair]:
    """A pair of the first words of each line that has enough of them."""
    for line in document.text.splitlines():
        words = line.split()
        while len(" ".join(words)) > _PAIR_CHARACTERS:
            words.pop()
        if len(words) < _FEWEST_WORDS or not line.isascii():
            continue
        first, second = sorted(random.sample(range(len(words)), 2))
        if words[first] != words[second]:
            swapped = list(words)
            swapped[first], swapped[second] = words[second], words[first]
            yield SwappedPair(document.id, document.subset, " ".join(words), " ".join(swapped))


def _names(text: str) -> list[tuple[str, int, int]]:
    """Identifiers of Python code with line (from 0) and column, in order. None for text that is not Python."""
    names = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and len(token.string) >= _SHORTEST_NAME and not keyword.iskeyword(token.string):
                names.append((token.string, token.start[0] - 1, token.start[1]))
    except (tokenize.TokenError, SyntaxError):
        return []
    return names


def _context_before(lines: Sequence[str], row_number: int, column: int) -> str:
    """The lines before the place, as many whole ones as fit, and its own line up to it."""
    context = lines[row_number][:column]
    for line in reversed(lines[max(0, row_number - _CONTEXT_LINES) : row_number]):
        if len(line) + len(context) > _CONTEXT_CHARACTERS:
            break
        context = line + context
    return context


def _cut(document: HeldOutDocument) -> Iterator[Passage]:
    """The document's lines in runs of at most `_PASSAGE_CHARACTERS`; what is too short, or is one longer line, is left out."""
    text = ""
    for line in (*document.text.splitlines(keepends=True), None):
        if line is None or len(text) + len(line) > _PASSAGE_CHARACTERS:
            if _SHORTEST_PASSAGE <= len(text.strip()) <= _PASSAGE_CHARACTERS:
                yield Passage(document.id, document.subset, text.strip())
            text = ""
        text += line or ""


def _in_turns(groups: Sequence[Sequence[T]]) -> list[T]:
    """The first of each group, then the second of each, and so on."""
    missing = object()
    turns = chain.from_iterable(zip_longest(*groups, fillvalue=missing))
    return [item for item in turns if item is not missing]  # type: ignore[misc]
