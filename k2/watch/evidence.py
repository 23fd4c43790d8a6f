"""The evidence of an incident: `incidents/NNN/`, filled in place, its receipt last.

What enters is a decided incident; what leaves is the folder with the records around it, a picture, a written summary, the
checkpoints that were abandoned with everything that was made of them, and links to those that tell the spike: before it, at
its peak, at the verdict. Each part may be done already: a call
that was killed anywhere is finished by the next one. K2 released the checkpoints of its spikes (K2 §3.1).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import write_durably
from k2.run.injection import strike
from k2.run.layout import RunLayout
from k2.run.ledger import Fact, IncidentDecided, IncidentOpened
from k2.run.receipt import Receipt, digest_files, find_receipt, now, read_receipt, write_receipt
from k2.run.records import Branches, StepRecord, accepted_of, branches
from k2.run.setting_aside import set_aside
from k2.watch.kept import keep_checkpoints
from k2.watch.target import chunk_position, skip_window

PICTURE = "loss.svg"
_PERSISTENCES_BEFORE = 10  # spikes specification 4.3: the records from 1,000 steps before the onset on


@dataclass(frozen=True)
class Loss:
    """What going back costs."""

    steps: int
    tokens: int
    seconds: float
    kwh: float


def keep_evidence(
    layout: RunLayout,
    recipe: Recipe,
    facts: list[Fact],
    incident: IncidentOpened,
    decision: IncidentDecided,
    abandoned: Iterable[str],
    picture: Callable[[Branches], str],
) -> Receipt:
    """Complete the incident's folder and give its receipt; its `facts["abandoned"]` names all that was set aside, by earlier calls too.

    `picture` draws the records as an SVG document.
    """
    folder = layout.incident(incident.incident)
    done = find_receipt(folder)
    if done is not None:
        return done
    records = branches(layout, facts, incident.stage)
    loss = _loss(layout, recipe, accepted_of(records, facts, incident.stage), incident, decision)
    _write_records(folder / "records.jsonl", recipe, records, incident)
    names = _set_aside(layout, _aside(folder), abandoned)
    kept = keep_checkpoints(layout, incident, decision, names, records[incident.attempt])
    write_durably(folder / PICTURE, picture(records).encode())
    write_durably(folder / "summary.md", _summary(layout, recipe, facts, incident, decision, names, kept, loss).encode())
    return write_receipt(
        folder / "receipt.json",
        Receipt(
            kind="incident",
            name=folder.name,
            recipe=digest(recipe),
            made_at=now(),
            inputs={name: read_receipt(_aside(folder) / name).digest for name in names},
            facts=_facts(incident, decision, names, kept, loss),
            files=digest_files(folder, [folder / name for name in ("records.jsonl", PICTURE, "summary.md")]),
        ),
    )


def _aside(folder: Path) -> Path:
    """Where an incident's abandoned checkpoints lie."""
    return folder / "checkpoints"


def _loss(layout: RunLayout, recipe: Recipe, accepted: list[StepRecord], incident: IncidentOpened, decision: IncidentDecided) -> Loss:
    """The accepted steps past the target: trained, and now thrown away."""
    lost: list[StepRecord] = []
    if decision.action == "rollback":
        target = _target_step(layout, decision)
        lost = [record for record in accepted if record.step > target]
    seconds = sum(record.seconds for record in lost)
    energy = recipe.energy
    kwh = energy.devices * energy.device_kw * energy.pue * seconds / 3600
    return Loss(len(lost), len(lost) * recipe.stage(incident.stage).tokens_per_step, seconds, kwh)


def _target_step(layout: RunLayout, decision: IncidentDecided) -> int:
    return int(read_receipt(layout.checkpoint(decision.checkpoint)).facts["step"]) if decision.checkpoint is not None else 0


def _write_records(path: Path, recipe: Recipe, attempts: Branches, incident: IncidentOpened) -> None:
    """Every attempt's records from well before the onset on, in the order in which they were written."""
    first = incident.onset_step - _PERSISTENCES_BEFORE * recipe.spikes.persistence_steps
    lines = [record.line() for attempt in sorted(attempts) for record in attempts[attempt] if record.step >= first]
    write_durably(path, "".join(lines).encode())


def _set_aside(layout: RunLayout, aside: Path, abandoned: Iterable[str]) -> tuple[str, ...]:
    """Move the abandoned checkpoints, and what was made of them, out of the run's way. Those moved before count too."""
    aside.mkdir(parents=True, exist_ok=True)
    names = sorted({*abandoned, *(path.name for path in aside.iterdir())})
    for name in names:
        set_aside(layout, aside.parent, name)
        strike("heal.moved")
    return tuple(names)


def _facts(
    incident: IncidentOpened, decision: IncidentDecided, abandoned: tuple[str, ...], kept: Mapping[str, str], loss: Loss
) -> dict[str, object]:
    """The numbers for readers, as the receipt holds them."""
    opened = incident.model_dump(exclude={"at", "prev", "fact", "incident"})
    decided = decision.model_dump(exclude={"at", "prev", "fact", "incident"})
    lost = {"steps": loss.steps, "tokens": loss.tokens, "seconds": loss.seconds, "kwh": loss.kwh}
    return opened | {"decision": decided, "abandoned": list(abandoned), "kept": dict(kept), "lost": lost, "opened_at": incident.at}


def _summary(  # noqa: PLR0913, PLR0917 - all that the text tells of
    layout: RunLayout,
    recipe: Recipe,
    facts: list[Fact],
    incident: IncidentOpened,
    decision: IncidentDecided,
    names: tuple[str, ...],
    kept: Mapping[str, str],
    loss: Loss,
) -> str:
    """The incident in a few sentences, for people."""
    e = incident.evidence
    when = datetime.fromisoformat(incident.at)
    lines = [
        f"# Incident {incident.incident:03d}: {incident.kind} in {incident.stage}",
        "",
        f"Opened {when:%Y-%m-%d %H:%M:%S %Z}, on attempt {incident.attempt}.",
        "",
        f"- Onset at step {incident.onset_step:,}, verdict at step {incident.verdict_step:,}, {e.get('age', 0):.0f} trained steps later.",
        f"- The loss rose by up to {e.get('rise_nats', 0):.3f} nat over {e.get('reference', 0):.3f} "
        f"(z {e.get('z', 0):.1f}, spread {e.get('deviation', 0):.4f} nat).",
    ]
    if "small_grad_fraction" in e:
        share = e["small_grad_fraction"]
        lines.append(f"- {share:.0%} of the span's steps had a small gradient norm, so their updates were not clipped.")
    lines += ["", _decided(recipe, layout, facts, incident, decision), ""]
    if names:
        lines += [f"Set aside: {', '.join(names)}.", ""]
    if kept:
        lines += [f"Kept for good: {', '.join(f'{name} ({part})' for part, name in kept.items())}.", ""]
    lines += [
        f"Lost: {loss.steps:,} steps, {loss.tokens:,} tokens, {loss.seconds:,.1f} s, {loss.kwh:.6g} kWh by the recipe's figures.",
        "",
    ]
    return "\n".join(lines)


def _decided(recipe: Recipe, layout: RunLayout, facts: list[Fact], incident: IncidentOpened, decision: IncidentDecided) -> str:
    """The decision as a sentence."""
    if decision.action != "rollback":
        return f"Decision by {decision.who}: {decision.action}."
    back = f"Decision by {decision.who}: back to {decision.checkpoint or f'the start of {incident.stage}'}"
    if decision.data == "defer":
        position = chunk_position(recipe.stage(incident.stage), incident.onset_step)
        return f"{back}; the chunk at position {position} moves to the end of the order."
    if decision.data == "none":
        return f"{back}; the data stays as it is."
    first, last = skip_window(recipe, facts, incident, _target_step(layout, decision))
    return f"{back}; steps {first:,} to {last:,} are not trained."
