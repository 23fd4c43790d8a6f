"""A lease for a run that a test drives by hand."""

from k2.run.layout import RunLayout
from k2.run.lease import Lease, hold


def past_lease(layout: RunLayout) -> Lease:
    """Of the last holder: the run is free, and nobody has taken it over."""
    with hold(layout) as lease:
        return lease
