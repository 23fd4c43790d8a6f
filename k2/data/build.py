"""The whole preparation: freeze the sources, train the tokenizer, encode, resolve, and build the chunks of all stages.

Enters a recipe and a place; leaves everything under `sources/`, `tokenizer/`, `tokens/`, `held_out/` and `chunks/`, and the
receipt over all chunks, written last: where it stands, data is prepared. Every part is committed by itself, so calling
`build` again after a crash goes on where it stood and gives the same bytes, on any number of workers. Hold the run's lease
to call it.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from k2.data.chunk import BuildChunk, build_chunk
from k2.data.document import DataError
from k2.data.encoding import encode_all
from k2.data.engine import Engine, open_engine
from k2.data.freeze import Frozen, first_texts, freeze, frozen
from k2.data.held_out import collect_held_out
from k2.data.mix import Plan, plan_mix
from k2.data.stream import Stream, open_streams
from k2.recipe.data import FileTokenizer, TrainedTokenizer
from k2.recipe.load import digest
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
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
    _sweep(recipe, layout)
    sources = _of_this_recipe(freeze(recipe, place, layout, progress), recipe)
    subsets = {subset.name: frozen(place, layout, subset) for subset in recipe.data.subsets}
    tokenizer = _prepare_tokenizer(recipe, place, layout, subsets, sources, progress)
    with open_engine(place, sum(_work_bytes(recipe, subsets))) as engine:
        streams = encode_all(recipe, layout, subsets, engine, progress)
        held_out = collect_held_out(recipe, layout, streams)
        plans, chunks = _build_chunks(recipe, layout, streams, engine, progress)
    opened = open_streams(recipe, layout)
    facts = {
        "stages": {stage.name: stage_facts(stage, plan, opened) for stage, plan in zip(recipe.stages, plans, strict=True)},
        "documents": sum(receipt.facts["documents"] for receipt in streams.values()),
        "held_out": held_out.facts["documents"],
    }
    inputs = {"tokenizer": tokenizer.digest, **dict(sorted(chunks.items()))}
    receipt = Receipt(kind="chunks", name="chunks", recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
    return write_receipt(layout.all_chunks / RECEIPT, receipt)


def stage_facts(stage: Stage, plan: Plan, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """What the receipt over all chunks says of a stage."""
    samples = stage.chunks * stage.samples_per_chunk
    return {
        "samples": samples,
        "tokens": samples * stage.context,
        "remainder": {share.subset: share.slots - share.kept for share in plan.shares},
        "tail_tokens": {share.subset: streams[share.subset].num_tokens % stage.context for share in plan.shares},
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


def tokenizer_texts(recipe: Recipe, subsets: Mapping[str, Frozen], train_bytes: int) -> Iterable[str]:
    """Texts for the tokenizer: of each subset its first documents, in proportion to its size."""
    sizes = dict(zip(subsets, _work_bytes(recipe, subsets), strict=True))
    share = min(1.0, train_bytes / max(sum(sizes.values()), 1))
    for subset in recipe.data.subsets:
        yield from first_texts(recipe, subset, subsets[subset.name], share * sizes[subset.name])


def _prepare_tokenizer(
    recipe: Recipe, place: Place, layout: RunLayout, subsets: Mapping[str, Frozen], sources: Receipt, progress: Progress
) -> Receipt:
    done = find_receipt(layout.tokenizer)
    if done is not None:
        return done
    match recipe.tokenizer:
        case TrainedTokenizer() as settings:
            texts = tokenizer_texts(recipe, subsets, settings.train_bytes)
            receipt = train_tokenizer(texts, layout.tokenizer, settings, digest(recipe), {"sources": sources.digest})
            progress(f"trained a tokenizer of {settings.pieces} pieces on {receipt.facts['trained_on_bytes'] / 1e6:.2f} MB")
        case FileTokenizer() as settings:
            receipt = install_tokenizer(Path(place.data_dir) / settings.path, layout.tokenizer, settings, digest(recipe))
            progress(f"took the tokenizer {settings.path} of {settings.pieces} pieces")
    return receipt


def _work_bytes(recipe: Recipe, subsets: Mapping[str, Frozen]) -> list[int]:
    """About how much text of each subset there is to encode."""
    sizes = {name: subset.bytes for name, subset in subsets.items()}
    return [sizes[s.name] if s.max_bytes is None else min(s.max_bytes, sizes[s.name]) for s in recipe.data.subsets]


def _build_chunks(
    recipe: Recipe, layout: RunLayout, streams: Mapping[str, Receipt], engine: Engine, progress: Progress
) -> tuple[list[Plan], dict[str, str]]:
    """The stages' plans, and the digest of every chunk by its name."""
    tokens = {name: int(receipt.facts["tokens"]) for name, receipt in streams.items()}
    plans = [plan_mix(stage, {entry.subset: tokens[entry.subset] // stage.context for entry in stage.mix}) for stage in recipe.stages]
    tasks = [
        BuildChunk(layout.root, recipe, stage, chunk, plan, {share.subset: streams[share.subset].digest for share in plan.shares})
        for stage, plan in zip(recipe.stages, plans, strict=True)
        for chunk in range(stage.chunks)
    ]
    chunks: dict[str, str] = {}
    for built in engine.map(build_chunk, tasks):
        chunks[built.name] = built.digest
        progress(f"built {built.name.replace('/chunk_', ' chunk ')}, {len(chunks)} of {len(tasks)}")
    return plans, chunks


def _sweep(recipe: Recipe, layout: RunLayout) -> None:
    """Remove what a killed build left half done."""
    for stage in recipe.stages:
        sweep(layout.chunks(stage.name))
    for subset in recipe.data.subsets:
        sweep(layout.stream(subset.name).parent)
    for folder in (layout.root, layout.tokens, layout.all_chunks):
        sweep(folder)


def _of_this_recipe(receipt: Receipt, recipe: Recipe) -> Receipt:
    """The receipt, if it was made for this recipe: data of another one is never mixed in."""
    if receipt.recipe != digest(recipe):
        raise DataError(
            f"the data here was prepared for another recipe (digest {receipt.recipe[:12]}, this one is {digest(recipe)[:12]}): "
            "go on with that recipe, or prepare this one in another folder"
        )
    return receipt
