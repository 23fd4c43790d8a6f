"""What a run's status says to a person: where it stands, what its checkpoints still owe, and where to look."""

from k2.run.layout import RunLayout
from k2.run.status import CheckpointStatus, Status


def status_lines(status: Status, layout: RunLayout) -> str:
    """The status as text."""
    where = (
        f"{status.stage}, chunk {status.chunk:03d}, step {status.step}"
        if status.stage is not None and status.chunk is not None
        else "not begun"
    )
    lines = [
        f"{status.run}: {status.state} ({where}; {status.tokens:,} tokens, {status.attempts} attempts, {len(status.incidents)} incidents)",
        *(_incident_line(incident) for incident in status.incidents),
        *(_checkpoint_line(checkpoint) for checkpoint in status.checkpoints),
        *_time_line(status.goodput),
        f"page         {layout.page}",
        f"checkpoints  {layout.checkpoints}",
        f"scores       {layout.all_scores}",
    ]
    return "\n".join(lines)


def _time_line(goodput: dict[str, float]) -> list[str]:
    """Where the time went, the largest share first; shares below half a percent are left to `--json`."""
    largest = sorted(goodput.items(), key=lambda item: -item[1])
    shares = [f"{cause} {share:.0%}" for cause, share in largest if share >= 0.005]
    return [f"time         {', '.join(shares)}"] if shares else []


def _incident_line(incident: dict[str, object]) -> str:
    where = f"{incident['stage']}, onset at step {incident['onset_step']}, verdict at {incident['verdict_step']}"
    return f"  incident {incident['incident']}: {incident['kind']} in {where}; {_answer(incident)}"


def _answer(incident: dict[str, object]) -> str:
    """What was decided and by whom, or that it waits; and why the policy did not answer alone."""
    decision = incident["decision"]
    told = f"{decision['action']} by {decision['who']}" if isinstance(decision, dict) else "waits for a decision"
    return f"{told} (asked because {incident['why_asked']})" if incident["why_asked"] else told


def _checkpoint_line(checkpoint: CheckpointStatus) -> str:
    owed = [duty for duty, settled in checkpoint.obligations.items() if not settled]
    return f"  {checkpoint.name}  {checkpoint.stage} step {checkpoint.step:>6}  " + (f"owed: {', '.join(owed)}" if owed else "all settled")
