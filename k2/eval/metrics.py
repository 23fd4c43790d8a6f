"""How the suite's own tasks make metrics of log-likelihoods. Task files name these functions; the harness calls them a row at a time."""

from collections.abc import Sequence
from math import exp
from typing import Any

Answers = Sequence[tuple[float, bool]]  # nats and whether greedy decoding would have said so, an option each


def share_of_the_right(doc: dict[str, Any], results: Answers) -> dict[str, float]:
    """`mc2`: the share that the right options have of the probability of all options. The row's `right` marks them."""
    likeliest = max(nats for nats, _ in results)  # taken out, so that no long option underflows
    weights = [exp(nats - likeliest) for nats, _ in results]
    return {"mc2": sum(weight for weight, right in zip(weights, doc["right"], strict=True) if right) / sum(weights)}


def prefers_the_first(doc: dict[str, Any], results: Answers) -> dict[str, float]:
    """Of a pair: whether the first is likelier, and by how many nats."""
    (first, _), (second, _) = results
    return {"pct_original": float(first > second), "likelihood_diff": first - second}
