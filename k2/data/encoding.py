"""Encoding all subsets: pieces go to the engine until every subset has what it is to give, then its stream is resolved.

Enters the frozen sources and an engine; leaves the shards and streams under `tokens/`. Which pieces are encoded follows
from the sources and the recipe alone: of a capped subset so many at a time as could fill what is missing, so that a terabyte
is not read for the sake of its first gigabyte.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from k2.data.encode import EncodeBeginning, EncodedShard, EncodePiece, encode_beginning, encode_piece
from k2.data.engine import Engine
from k2.data.freeze import Frozen
from k2.data.resolve import find_cut, kept_bytes, write_stream
from k2.data.sources import Piece, bundle, cut
from k2.recipe.data import Subset
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt

_LINES = 20  # of progress


@dataclass
class _Work:
    """A subset being encoded: its pieces, a shard's together, and the shards of the first of them."""

    subset: Subset
    frozen: Frozen
    bundles: Sequence[tuple[Piece, ...]]
    shards: list[EncodedShard] = field(default_factory=list)

    def tasks(self, recipe: Recipe, layout: RunLayout) -> list[EncodePiece]:
        """The pieces that must be encoded next; none when there are enough."""
        numbers = {file.name: number for number, file in enumerate(self.frozen.files)}
        first = len(self.shards)
        last = len(self.bundles) if self.subset.max_bytes is None else first + self._missing(recipe, layout, self.subset.max_bytes)
        return [
            EncodePiece(
                root=layout.root,
                recipe=recipe,
                subset=self.subset,
                shard=shard,
                source=self.frozen.source,
                place=self.frozen.place,
                pieces=pieces,
                files=tuple(numbers[piece.file.name] for piece in pieces),
            )
            for shard, pieces in enumerate(self.bundles[first:last], first)
        ]

    def _missing(self, recipe: Recipe, layout: RunLayout, max_bytes: int) -> int:
        """How many more pieces could hold what the cap still allows."""
        left = max_bytes - kept_bytes(layout, self.subset, self.shards)
        return -(-max(left, 0) // recipe.data.shard_bytes)


def encode_all(
    recipe: Recipe, layout: RunLayout, subsets: Mapping[str, Frozen], engine: Engine, progress: Callable[[str], None]
) -> dict[str, Receipt]:
    """Encode and resolve every subset; the receipts of their streams, by name."""
    done = {name: receipt for name in subsets if (receipt := find_receipt(layout.stream(name))) is not None}
    works = [
        _Work(subset, subsets[subset.name], _bundles(recipe, subsets[subset.name]))
        for subset in recipe.data.subsets
        if subset.name not in done
    ]
    while tasks := [task for work in works for task in work.tasks(recipe, layout)]:
        finished = _encode(tasks, engine, progress)
        for work in works:
            work.shards += sorted((shard for shard in finished if shard.subset == work.subset.name), key=lambda shard: shard.shard)
    for work in works:
        done[work.subset.name] = receipt = _resolve(recipe, layout, work)
        progress(f"encoded {work.subset.name}: {_say(receipt)}")
    return {name: done[name] for name in subsets}


def _bundles(recipe: Recipe, frozen: Frozen) -> list[tuple[Piece, ...]]:
    """What each shard of the subset is made from."""
    return bundle(cut(frozen.files, recipe.data.shard_bytes), recipe.data.shard_bytes)


def _encode(tasks: Sequence[EncodePiece], engine: Engine, progress: Callable[[str], None]) -> list[EncodedShard]:
    """Encode the pieces, saying how far it is where there are many."""
    finished: list[EncodedShard] = []
    for shard in engine.map(encode_piece, tasks):
        finished.append(shard)
        if len(tasks) > _LINES and len(finished) * _LINES // len(tasks) > (len(finished) - 1) * _LINES // len(tasks):
            progress(f"encoded {len(finished)} of {len(tasks)} pieces")
    return finished


def _resolve(recipe: Recipe, layout: RunLayout, work: _Work) -> Receipt:
    """Commit the subset's stream; the document that a cap cuts is encoded anew, as far as it fits."""
    ending, end = find_cut(layout, work.subset, work.shards), None
    if ending is not None and ending.limit_bytes > 0:
        frozen, name = work.frozen, work.frozen.files[ending.file].name
        end = encode_beginning(
            EncodeBeginning(
                root=layout.root,
                recipe=recipe,
                subset=work.subset,
                shard=len(work.shards),
                source=frozen.source,
                place=frozen.place,
                name=name,
                file=ending.file,
                position=ending.position,
                limit_bytes=ending.limit_bytes,
            )
        )
    return write_stream(recipe, layout, work.subset, work.shards, ending, end)


def _say(receipt: Receipt) -> str:
    facts = receipt.facts
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(facts["dropped"].items()))
    return f"{facts['tokens']:,} tokens of {facts['documents']} documents; {facts['duplicates']} duplicates left out" + (
        f"; dropped: {dropped}" if dropped else ""
    )
