"""The data operations of the ledger in words, for whoever shows them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from k2.run.ledger import ChunkDeferred, ChunkRepeated, ChunksReordered, DataOperation, Fact, SamplesSkipped, StepsSkipped


def data_operations(facts: Iterable[Fact], stage: str) -> Iterator[DataOperation]:
    """The operations on the stage's data, in order."""
    return (fact for fact in facts if isinstance(fact, DataOperation) and fact.stage == stage)


def words(operation: DataOperation) -> str:
    """What was done, without who, when and why."""
    match operation:
        case StepsSkipped():
            return f"steps {operation.first_step:,} to {operation.last_step:,} skipped"
        case SamplesSkipped():
            return f"rows {operation.first_row:,} to {operation.last_row:,} of chunk {operation.chunk} skipped"
        case ChunkDeferred():
            return f"position {operation.position} deferred to the end"
        case ChunksReordered():
            return f"position {operation.position} on reordered to {ranges(operation.chunks)}"
        case ChunkRepeated():
            return (
                f"chunk {operation.chunk} of position {operation.position} repeated at position {operation.again_at}, "
                f"in the place of chunk {operation.replaced}"
            )


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as people write them: `0-15, 32-37, 160`."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0][1]}" if len(run) == 1 else f"{run[0][1]}-{run[-1][1]}" for run in runs)
