"""A run directory with exported and scored checkpoints, laid through the real receipt functions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from k2.recipe.load import digest, load_recipe, to_toml
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, RunCreated, append_facts, ledger_head
from k2.run.receipt import RECEIPT, Receipt, digest_files, now, read_receipt, seal_folder, write_receipt
from k2.run.records import StepRecord
from k2.run.setting_aside import set_aside


class Run:
    """A run of tests/mini.toml whose checkpoints are laid by hand: receipts, weights and scores of the real shapes."""

    def __init__(self, runs_dir: Path, name: str = "mini-1", recipe: Recipe | None = None) -> None:
        self.recipe: Recipe = recipe or load_recipe(str(Path(__file__).parents[1] / "mini.toml"))
        self.layout = RunLayout(runs_dir / name)
        self.layout.root.mkdir(parents=True)
        self.layout.recipe.write_text(to_toml(self.recipe))
        append_facts(
            self.layout.ledger,
            RunCreated(run=name, recipe=digest(self.recipe), recipe_name=self.recipe.name),
            AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1),
        )
        self._lay_records()
        made = {f"stage1/chunk_{chunk:03d}": self._chunk(chunk).digest for chunk in range(3)}
        self.chunks = write_receipt(self.layout.all_chunks / RECEIPT, self._receipt("chunks", "chunks", made, {"stages": self._stages()}))

    def checkpoint(self, number: int, seed: int = 0, weights: int = 2_000, more_files: tuple[str, ...] = ()) -> str:
        """Lay `ckpt_<number>`: its receipt, its export and its scores. Another seed makes other weights."""
        name = f"ckpt_{number:03d}"
        step = 8 * number
        where = {"stage": "stage1", "step": step}
        facts = {"kind": "chunk", **where, "tokens": step * 4 * 32, "attempt": 1, "lr": 3e-4, "precision": "fp32"}
        facts |= {"position": number - 1, "chunk": number - 1, "order_head": ledger_head(self.layout.ledger)}
        with durable_folder(self.layout.checkpoint(name)) as folder:
            (folder / "state").mkdir()
            (folder / "state" / "rank_0.bin").write_bytes(bytes([number, seed]) * 500)
            checkpoint = seal_folder(folder, self._receipt("checkpoint", name, {"chunks": self.chunks.digest}, facts))
        with durable_folder(self.layout.export(name)) as folder:
            save_file({"weights": np.random.default_rng(1000 * number + seed).random(weights, np.float32)}, folder / "model.safetensors")
            (folder / "config.json").write_text('{"model_type": "llama"}\n')
            (folder / "tokenizer.model").write_bytes(bytes(range(256)))
            for extra in more_files:
                (folder / extra).write_text("{}\n")
            exported = {"max_abs_logit_difference": 1.2e-6, "parameters": weights, "stage": "stage1", "context": 32}
            export = seal_folder(folder, self._receipt("export", name, {"checkpoint": checkpoint.digest}, exported))
        with durable_folder(self.layout.scores(name)) as folder:
            (folder / "samples_k2_choice.jsonl").write_text(json.dumps(self._answer(name)) + "\n")
            seal_folder(folder, self._receipt("scores", name, {"export": export.digest}, self._scores(facts)))
        return name

    def _lay_records(self) -> None:
        records = self.layout.metrics("stage1", 1)
        records.parent.mkdir(parents=True)
        lines = (StepRecord(1, "stage1", step, 6.0 - step / 10, 1.0, 3e-4, 128 * step, 0.1).line() for step in range(1, 25))
        records.write_text("".join(lines))

    def _chunk(self, chunk: int) -> Receipt:
        rows, index = self.layout.chunk("stage1", chunk), self.layout.chunk_index("stage1", chunk)
        rows.parent.mkdir(parents=True, exist_ok=True)
        rows.write_bytes(bytes([chunk, 0]) * 32 * 32)
        np.save(index, np.full((32, 6), chunk, np.int32))
        receipt = self._receipt("chunk", f"stage1/chunk_{chunk:03d}", {}, {"chunk": chunk})
        return write_receipt(rows.with_suffix(".json"), receipt.model_copy(update={"files": digest_files(rows.parent, [rows, index])}))

    def abandon(self, name: str, incident: int = 1) -> None:
        """What healing an incident does."""
        set_aside(self.layout, self.layout.incident(incident), name)

    def forge_export(self, name: str, **changes: Any) -> None:
        """Change the export's receipt, and the scores' so that they still follow from it."""
        export = read_receipt(self.layout.export(name)).model_copy(update=changes)
        write_receipt(self.layout.export(name) / RECEIPT, export)
        scores = read_receipt(self.layout.scores(name))
        write_receipt(self.layout.scores(name) / RECEIPT, scores.model_copy(update={"inputs": {"export": export.digest}}))

    def _receipt(self, kind: str, name: str, inputs: dict[str, str], facts: dict[str, Any]) -> Receipt:
        return Receipt(kind=kind, name=name, recipe=digest(self.recipe), made_at=now(), inputs=inputs, facts=facts)

    def _stages(self) -> dict[str, Any]:
        subsets = {"prose": (1.0, 48), "code": (0.5, 30), "law": (3.0, 18)}
        counted = {
            name: {
                "repeat": repeat,
                "samples": samples,
                "tokens": 32 * samples,
                "fraction": samples / 96,
                "per_chunk_min": 0,
                "per_chunk_max": 16,
            }
            for name, (repeat, samples) in subsets.items()
        }
        return {"stage1": {"samples": 96, "tokens": 96 * 32, "remainder": {}, "subsets": counted}}

    def _answer(self, checkpoint: str) -> dict[str, Any]:
        answered = {"responses": [[-1.5, True], [-2.0, False]], "metrics": {"acc": 1.0}, "filter": "none"}
        return {"task": "k2_choice", "doc_id": 0, "target": checkpoint, **answered}

    def _scores(self, facts: dict[str, Any]) -> dict[str, Any]:
        score = {
            "task": "k2_choice",
            "shots": 2,
            "metric": "acc",
            "value": 0.40625,
            "stderr": 0.0873,
            "samples": 32,
            "higher_is_better": True,
        }
        return {
            "stage": facts["stage"],
            "step": facts["step"],
            "tokens": facts["tokens"],
            "suite": "k2_tiny",
            "suites": ["k2_tiny"],
            "tasks": {"k2_choice": "0" * 64, "k2_bits": "0" * 64},
            "harness": "0.4.13",
            "data": "0" * 64,
            "scores": [
                score,
                {**score, "task": "k2_bits", "metric": "bits_per_byte", "value": 3.5, "stderr": None, "higher_is_better": False},
            ],
        }
