"""The suites of a release: what was published, indexed for the report's three audiences (Research, Pretraining, Developer).

Enters the release's index and the receipts of a run directory; leaves Markdown whose links lead to what lies beside the
release. What was not published is not promised.
"""

from typing import TYPE_CHECKING

import k2
from k2.publish.card import render
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import find_receipt

if TYPE_CHECKING:
    from k2.publish.release import ReleaseIndex


def describe_suites(recipe: Recipe, layout: RunLayout, index: "ReleaseIndex") -> str:
    """The words of a release."""
    names = [one.name for one in index.checkpoints]
    return render(
        "suites.md.j2",
        recipe=recipe,
        index=index,
        first=index.checkpoints[0] if names else None,
        last=index.checkpoints[-1] if names else None,
        spikes=published_spikes(layout),
        data=recipe.publishing.data,
        suite=find_receipt(layout.suite(recipe.evaluation.suite)) is not None,
        galleries=any(find_receipt(layout.shown(name)) is not None for name in names),
        page=layout.published_page.is_file(),
        made_by=f"k2 {k2.__version__}",
    )


def published_spikes(layout: RunLayout) -> list[str]:
    """The numbers of the incidents whose evidence is published, as their folders have them."""
    numbers = sorted(int(folder.name) for folder in layout.incidents.glob("[0-9]*"))
    return [f"{number:03d}" for number in numbers if find_receipt(layout.kept(number).published_evidence) is not None]
