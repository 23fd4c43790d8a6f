"""The model card says what the receipts say, and nothing in them can break it."""

from pathlib import Path

import yaml
from laid_run import Run

from k2.publish.card import Described, as_cell, render_card
from k2.recipe.load import digest
from k2.run.receipt import read_receipt


def _describe(run: Run, name: str) -> Described:
    layout = run.layout
    return Described(
        run.recipe,
        layout.name,
        read_receipt(layout.checkpoint(name)),
        read_receipt(layout.export(name)),
        read_receipt(layout.scores(name)),
        read_receipt(layout.all_chunks),
    )


def _header(card: str) -> dict[str, object]:
    header: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return header


def test_the_card_holds_the_receipts_numbers(run: Run) -> None:
    described = _describe(run, run.checkpoint(2))
    card = render_card(described)
    weights = next(file for file in described.export.files if file.path == "model.safetensors")
    for said in (
        "# mini, ckpt_002",
        "| step of the stage | 16 of 24 |",
        "| tokens trained | 2,048 |",
        "| learning rate | 0.0003 (cosine, 0.003 to 0.0003, 4 steps of warmup) |",
        "| layers | 2 |",
        "| RoPE base | 10000 |",
        f"| recipe digest | `{digest(run.recipe)}` |",
        "| k2\\_choice | 2 | acc | 0.4062 | 0.0873 | 32 | higher |",
        "| k2\\_bits | 2 | bits\\_per\\_byte | 3.5000 | - | 32 | lower |",
        "| law | 3 | 18 | 576 | 18.75 % |",
        f"| model.safetensors | {weights.bytes:,} | `{weights.sha256}` |",
        'revision="ckpt_002"',
    ):
        assert said in card
    assert _header(card)["license"] == "apache-2.0"
    assert _header(card)["library_name"] == "transformers"


def test_an_unscored_checkpoint_says_so(run: Run) -> None:
    described = _describe(run, run.checkpoint(1))
    card = render_card(Described(described.recipe, described.run, described.checkpoint, described.export, None, described.chunks))
    assert "was not scored" in card
    assert "lm-eval" not in card


def test_text_from_a_recipe_cannot_break_the_card(run: Run) -> None:
    described = _describe(run, run.checkpoint(1))
    publishing = run.recipe.publishing.model_copy(update={"licence": 'x"\ngated: true\n---'})
    hostile = run.recipe.model_copy(update={"description": "<script>alert(1)</script>\n---\n| a | b |", "publishing": publishing})
    card = render_card(Described(hostile, described.run, described.checkpoint, described.export, described.scores, described.chunks))
    assert _header(card)["license"] == 'x"\ngated: true\n---'
    assert "gated" not in _header(card)
    assert "<script>" not in card
    assert as_cell("a|b\nc") == "a\\|b c"


def test_the_card_is_packaged() -> None:
    import k2.publish

    assert (Path(k2.publish.__file__).parent / "card.md.j2").is_file()
