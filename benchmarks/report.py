"""What a report of 1,000 tests under 8 experiments costs: to write, to keep, to open.

`python benchmarks/report.py`; the page is opened only where chromium, its driver and selenium are.
"""

from __future__ import annotations

import datetime
import importlib.util
import random
import shutil
import tempfile
import time

from collections.abc import Iterator
from pathlib import Path

from figures import Figure
from figures import pin
from figures import show

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import judge
from pytest_resilience.report.report_files import read_report
from pytest_resilience.report.report_files import write_report
from pytest_resilience.report.run_report import Report


TESTS = 1000
EXPERIMENTS = 8
MOMENTS = 18  # of a cell: a few calls, each with its fault and its retry
REPEATS = 5
TARGETS = {".html": 2.0}  # seconds
MEGABYTE = 1e6
VERDICTS = (*[CellVerdict.SURVIVED] * 90, *[CellVerdict.FAILED] * 5, *CellVerdict)


def cells() -> Iterator[Cell]:
    chance = random.Random(1)
    for test in range(TESTS):
        nodeid = f"tests/orders/test_payments_{test // 20}.py::TestCheckout::test_pays[{test}-eur]"
        for number in range(EXPERIMENTS):
            verdict = chance.choice(VERDICTS)
            experiment = f"payments trouble {number}"
            yield Cell(
                test=nodeid,
                experiment=experiment,
                what=f"network_latency latency {number}00ms on payments.internal:443",
                verdict=verdict,
                reason="" if verdict.good else f"TimeoutError: read timed out after {test} ms",
                repeat=f"pytest '{nodeid}' --chaos-profile ci --chaos-matrix --chaos-seed 1234567",
                duration=chance.random(),
                timeline=tuple(moments(experiment, chance)),
            )


def moments(experiment: str, chance: random.Random) -> Iterator[TimelineEntry]:
    at = 0.0
    for number in range(MOMENTS // 3):
        at += chance.random()
        place = f"payments.internal:443 at shop/pay.py:{chance.randrange(300)} in charge"
        yield TimelineEntry(at=at, kind=EntryKind.OPERATION, source="network.connect", text=place)
        yield TimelineEntry(
            at=at, kind=EntryKind.FAULT, source=experiment, text=f"latency on {place}"
        )
        yield TimelineEntry(
            at=at + 0.1, kind=EntryKind.RETRY, source="charge", text=f"attempt {number}"
        )


def opened(path: Path) -> float:
    """Seconds from asking for the page until its map is on the screen."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get("about:blank")
        began = time.perf_counter()
        driver.get(path.as_uri())
        # Answered after the next frame is drawn, so layout and paint are in it.
        driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        seconds = time.perf_counter() - began
        assert len(driver.find_elements(By.CSS_SELECTOR, "#map tbody tr")) == TESTS
        return seconds
    finally:
        driver.quit()


def figures(folder: Path) -> Iterator[Figure]:
    report = Report(cells=tuple(cells()), configuration="0123456789ab", profiles=("ci",), seed=1)
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        today = datetime.date(2026, 1, 1)
        gate = judge(report, threshold=95, baseline=None, today=today)
        best = min(best, time.perf_counter() - began)
    yield Figure(what="gate: judge 8,000 cells", value=best, target=None, unit="s")
    for suffix in (".html", ".json", ".md"):
        path = folder / f"report{suffix}"
        best = float("inf")
        for _ in range(REPEATS):
            began = time.perf_counter()
            write_report(path, report, gate)
            best = min(best, time.perf_counter() - began)
        target = TARGETS.get(suffix)
        yield Figure(what=f"{suffix}: write 8,000 cells", value=best, target=target, unit="s")
        size = path.stat().st_size / MEGABYTE
        target = 5.0 if suffix == ".html" else None
        yield Figure(what=f"{suffix}: size", value=size, target=target, unit="MB")
    began = time.perf_counter()
    assert read_report(folder / "report.json") == report
    seconds = time.perf_counter() - began
    yield Figure(what=".json: read 8,000 cells", value=seconds, target=None, unit="s")
    if shutil.which("chromedriver") and importlib.util.find_spec("selenium"):
        best = min(opened(folder / "report.html") for _ in range(REPEATS))
        yield Figure(what=".html: open in chromium", value=best, target=1.0, unit="s")


if __name__ == "__main__":
    pin()
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(show(list(figures(Path(folder)))))
