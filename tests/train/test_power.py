"""The machine's own energy counters, read from files laid out as the kernel lays them out."""

from pathlib import Path

from k2.train.power import PowerMeter


def zone(powercap: Path, name: str, microjoules: int, wraps_at: int = 1_000_000_000) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def test_packages_add_up_and_what_lies_below_them_is_not_counted_twice(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 5_000_000)
    zone(tmp_path, "intel-rapl:1", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", 4_000_000)
    meter = PowerMeter(tmp_path, devices=False)
    zone(tmp_path, "intel-rapl:0", 7_500_000)
    zone(tmp_path, "intel-rapl:1", 1_500_000)
    zone(tmp_path, "intel-rapl:0:0", 6_000_000)
    assert meter.joules() == 3.0
    assert meter.joules() == 0.0


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 9_000_000, wraps_at=10_000_000)
    meter = PowerMeter(tmp_path, devices=False)
    zone(tmp_path, "intel-rapl:0", 500_000, wraps_at=10_000_000)
    assert meter.joules() == 1.5


def test_a_machine_that_counts_nothing_says_so(tmp_path: Path) -> None:
    assert PowerMeter(tmp_path, devices=False).joules() is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert PowerMeter(tmp_path, devices=False).joules() is None
