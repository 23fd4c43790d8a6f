"""The whole preparation: gather, train the tokenizer, encode, and build the chunks of all stages.

Enters a recipe and a place; leaves everything under `sources/`, `tokenizer/`, `tokens/` and `chunks/`, and the
receipt over all chunks, written last: where it stands, data is prepared. Every part is committed by itself, so calling
`build` again after a crash goes on where it stood and gives the same bytes. Hold the run's lease to call it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from k2.data.chunk import build_chunk
from k2.data.document import DataError, read_documents
from k2.data.encode import Stream, encode_subset, open_stream
from k2.data.gather import gather, source_file
from k2.data.mix import Plan, plan_mix
from k2.recipe.load import digest
from k2.recipe.schema import FileTokenizer, Place, Recipe, Stage, TrainedTokenizer
from k2.run.durable import sweep
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, Receipt, find_receipt, now, write_receipt
from k2.tokenizer import install_tokenizer, train_tokenizer

Progress = Callable[[str], None]


def build(recipe: Recipe, place: Place, layout: RunLayout, progress: Progress) -> Receipt:
    """Prepare everything that the recipe trains on; the receipt over all chunks. What is there already is kept."""
    done = find_receipt(layout.all_chunks)
    if done is not None:
        return _of_this_recipe(done, recipe)
    for folder in (layout.tokens, layout.all_chunks, *(layout.chunks(stage.name) for stage in recipe.stages)):
        sweep(folder)
    sources = _of_this_recipe(gather(recipe, place, layout, progress), recipe)
    tokenizer = _prepare_tokenizer(recipe, place, layout, sources, progress)
    inputs = {"sources": sources.digest, "tokenizer": tokenizer.digest}
    encoded = {subset.name: encode_subset(recipe, layout, subset, inputs, progress) for subset in recipe.data.subsets}
    streams = {name: open_stream(layout, name) for name in encoded}
    plans = [plan_mix(stage, _samples(stage, streams)) for stage in recipe.stages]
    chunks: dict[str, str] = {}
    for stage, plan in zip(recipe.stages, plans, strict=True):
        made_from = {share.subset: encoded[share.subset].digest for share in plan.shares}
        for receipt in _build_stage(recipe, layout, stage, plan, streams, made_from, progress):
            chunks[receipt.name] = receipt.digest
    facts = {
        "stages": {stage.name: stage_facts(stage, plan, streams) for stage, plan in zip(recipe.stages, plans, strict=True)},
        "documents": sum(receipt.facts["documents"] for receipt in encoded.values()),
        "held_out": sum(count["held_out"] for count in sources.facts["subsets"].values()),
    }
    return write_receipt(
        layout.all_chunks / RECEIPT,
        Receipt(
            kind="chunks",
            name="chunks",
            recipe=digest(recipe),
            made_at=now(),
            inputs={"tokenizer": tokenizer.digest, **chunks},
            facts=facts,
        ),
    )


def stage_facts(stage: Stage, plan: Plan, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """What the receipt over all chunks says of a stage."""
    samples = stage.chunks * stage.samples_per_chunk
    return {
        "samples": samples,
        "tokens": samples * stage.context,
        "remainder": {share.subset: share.slots - share.kept for share in plan.shares},
        "tail_tokens": {share.subset: len(streams[share.subset].tokens) % stage.context for share in plan.shares},
        "subsets": {
            share.subset: {
                "repeat": share.repeat,
                "samples": share.kept,
                "tokens": share.kept * stage.context,
                "fraction": share.kept / samples,
                "per_chunk_min": min(share.per_chunk),
                "per_chunk_max": max(share.per_chunk),
            }
            for share in plan.shares
        },
    }


def _prepare_tokenizer(recipe: Recipe, place: Place, layout: RunLayout, sources: Receipt, progress: Progress) -> Receipt:
    done = find_receipt(layout.tokenizer)
    if done is not None:
        return done
    match recipe.tokenizer:
        case TrainedTokenizer() as settings:
            texts = tokenizer_texts(layout, sources, settings.train_bytes)
            receipt = train_tokenizer(texts, layout.tokenizer, settings, digest(recipe), {"sources": sources.digest})
            progress(f"trained a tokenizer of {settings.pieces} pieces on {receipt.facts['trained_on_bytes'] / 1e6:.2f} MB")
        case FileTokenizer() as settings:
            receipt = install_tokenizer(Path(place.data_dir) / settings.path, layout.tokenizer, settings, digest(recipe))
            progress(f"took the tokenizer {settings.path} of {settings.pieces} pieces")
    return receipt


def tokenizer_texts(layout: RunLayout, sources: Receipt, train_bytes: int) -> Iterator[str]:
    """Texts for the tokenizer: of each subset its first documents, in proportion to its size."""
    sizes = {name: count["bytes"] for name, count in sources.facts["subsets"].items()}
    share = min(1.0, train_bytes / max(sum(sizes.values()), 1))
    for name, size in sizes.items():
        left = share * size
        for document in read_documents(source_file(layout, name)):
            if left <= 0:
                break
            yield document.text
            left -= len(document.text.encode())


def _samples(stage: Stage, streams: Mapping[str, Stream]) -> dict[str, int]:
    return {entry.subset: len(streams[entry.subset].tokens) // stage.context for entry in stage.mix}


def _build_stage(
    recipe: Recipe, layout: RunLayout, stage: Stage, plan: Plan, streams: Mapping[str, Stream], inputs: dict[str, str], progress: Progress
) -> Iterator[Receipt]:
    for chunk in range(stage.chunks):
        yield build_chunk(recipe, layout, stage, chunk, plan, streams, inputs)
        progress(f"built {stage.name} chunk {chunk:03d}, {chunk + 1} of {stage.chunks}")


def _of_this_recipe(receipt: Receipt, recipe: Recipe) -> Receipt:
    """The receipt, if it was made for this recipe: data of another one is never mixed in."""
    if receipt.recipe != digest(recipe):
        raise DataError(
            f"the data here was prepared for another recipe (digest {receipt.recipe[:12]}, this one is {digest(recipe)[:12]}): "
            "go on with that recipe, or prepare this one in another folder"
        )
    return receipt
