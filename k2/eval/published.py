"""What the report published: Tables 2 and 3, a column a model, in the order of `benchmarks.BENCHMARKS`. In percent.

The first column of Table 2 is headed "K2-65B"; its numbers are those that the project's site gives for the end of stage 1. A score never
carries a model's name alone, so neither does a column.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from k2.eval.benchmarks import BENCHMARKS


@dataclass(frozen=True)
class PublishedColumn:
    """One model's column. `printed_average` is what the report printed below it."""

    table: int
    model: str
    stage: str | None  # of K2's own models
    printed_average: float
    percents: tuple[float, ...]

    def by_name(self) -> Mapping[str, float]:
        """The column's values by the name of their row."""
        return {row.name: value for row, value in zip(BENCHMARKS, self.percents, strict=True)}


PUBLISHED: tuple[PublishedColumn, ...] = (
    PublishedColumn(2, "K2-65B", "stage1", 57.2, (
        64.8, 40.6, 85.5, 84.6, 86.4, 64.8, 49.2, 77.0, 40.8, 74.0, 50.2, 39.0, 34.6, 64.6, 32.0, 48.2, 25.7, 51.0, 53.7, 56.0, 78.6)),
    PublishedColumn(2, "LLaMA-65B", None, 53.77, (
        59.7, 41.8, 85.9, 83.9, 86.9, 63.2, 50.0, 77.2, 42.6, 72.9, 47.0, 38.0, 37.0, 58.5, 22.8, 36.0, 21.5, 34.8, 46.2, 46.9, 76.4)),
    PublishedColumn(2, "Llama2-70B", None, 57.11, (
        65.4, 42.7, 86.9, 84.3, 88.2, 67.2, 52.4, 77.7, 44.9, 73.5, 52.6, 39.5, 37.3, 66.7, 30.06, 42.1, 21.2, 44.4, 56.2, 51.8, 74.4)),
    PublishedColumn(2, "Falcon-40B", None, 45.87, (
        53.4, 40.0, 85.3, 84.8, 85.6, 61.9, 49.0, 76.6, 41.7, 75.9, 22.7, 35.0, 30.1, 41.2, 0.0, 0.0, 3.2, 18.2, 40.8, 41.9, 76.0)),
    PublishedColumn(2, "Falcon-180B", None, 55.99, (
        65.7, 41.1, 88.97, 87.1, 89.6, 69.5, 52.2, 86.6, 45.6, 68.4, 56.6, 42.3, 33.6, 62.0, 0.1, 0.6, 42.1, 55.0, 58.4, 56.1, 74.2)),
    PublishedColumn(3, "K2-Chat 65B", "finetune", 60.24, (
        63.5, 46.1, 81.7, 82.3, 84.6, 61.3, 48.0, 79.5, 44.7, 64.2, 60.7, 44.8, 38.0, 64.9, 47.9, 64.6, 48.4, 60.0, 53.6, 51.3, 75.0)),
    PublishedColumn(3, "Qwen1.5-Chat 72B", None, 59.98, (
        76.9, 38.1, 86.3, 82.4, 87.1, 67.7, 47.8, 80.2, 63.9, 65.7, 30.6, 49.6, 39.8, 29.4, 40.4, 54.3, 51.1, 61.2, 65.2, 62.7, 79.2)),
    PublishedColumn(3, "DeepSeek-Chat 67B", None, 65.93, (
        72.0, 46.3, 87.0, 85.8, 89.9, 68.5, 52.2, 85.7, 55.9, 73.9, 47.0, 44.2, 42.7, 73.7, 59.0, 75.0, 58.2, 70.6, 61.4, 56.7, 79.0)),
    PublishedColumn(3, "Llama2-Chat 70B", None, 55.81, (
        61.1, 44.0, 85.9, 81.8, 85.5, 65.3, 47.2, 75.1, 52.8, 71.9, 48.4, 38.0, 37.7, 63.0, 30.7, 41.5, 31.4, 39.2, 50.0, 44.8, 76.8)),
    PublishedColumn(3, "Llama3-Instruct 70B", None, 64.22, (
        78.6, 47.0, 85.6, 85.0, 89.8, 72.0, 55.2, 76.1, 61.9, 71.1, 91.2, 67.4, 41.5, 45.6, 41.8, 56.7, 18.9, 36.4, 76.4, 71.0, 79.6)),
)  # fmt: skip
