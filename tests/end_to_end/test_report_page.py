"""The HTML report in a real browser; skipped where there is none."""

from __future__ import annotations

import json
import shutil

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.report_files import write_report
from pytest_resilience.report.run_report import Report
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report


pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement


HOSTILE = (
    "</script x><script>window.hacked = 1</script><!--<script>"
    "<img src=x onerror='window.hacked = 1'>"
)
PHONE = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
DESK = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}

TIMELINE = (
    TimelineEntry(at=0.25, kind=EntryKind.OPERATION, source="network.connect", text="pay:443"),
    TimelineEntry(at=0.25, kind=EntryKind.FAULT, source="gone", text="refused at shop.py:3 in buy"),
    TimelineEntry(at=1.5, kind=EntryKind.BREAKER, source="payments", text="CLOSED to OPEN"),
    TimelineEntry(at=1.75, kind=EntryKind.RETRY, source="buy", text="attempt 2 in 100ms"),
)


def found() -> Report:
    pays = "tests/test_shop.py::test_pays"
    return report(
        cell("survived", pays, "slow", weight=2),
        cell(
            "failed", pays, "gone", what="connection refused on pay:443", duration=1.8,
            reason=f"AssertionError: {HOSTILE}", repeat=f"pytest {pays} --chaos-seed 1",
            timeline=TIMELINE, flaky=True,
        ),
        cell("survived", HOSTILE, "slow"),
        cell("hang", HOSTILE, "gone", repeat=f"pytest '{HOSTILE}'"),
        cell("not_run", "tests/test_user.py::test_login", "slow"),
        *(cell("survived", f"tests/test_many.py::test_{number}", "slow") for number in range(40)),
        profiles=("ci",), seed=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"),  # root, small /dev/shm
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=str(programs[1]))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


TURN_TO = """
  const [view, done] = arguments;
  addEventListener("hashchange", () => done(), {once: true});  // after the page's own
  location.hash = view;
"""


class Page:
    """The report, opened."""

    def __init__(self, driver: webdriver.Chrome, path: Path) -> None:
        self.driver = driver
        self.path = path
        self.show(DESK)
        self.prefer("light")
        for log in ("browser", "performance"):
            self._log(log)  # what an earlier test left there
        driver.get(path.as_uri())

    def show(self, screen: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [each.text for each in self.all(selector)]

    def tests(self) -> list[str]:
        return [text for text in self.texts("#map tbody th") if text]

    def _log(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return found

    def ask(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    @property
    def address(self) -> str:
        """As the page itself knows it: the browser hears of a change later."""
        return str(self.ask("location.href"))

    def turn_to(self, view: str) -> None:
        """Change what stands after the `#`, and wait until the page has heard of that."""
        self.driver.execute_async_script(TURN_TO, view)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> set[str]:
        messages = [json.loads(each["message"]) for each in self._log("performance")]
        return {
            each["message"]["params"]["request"]["url"]
            for each in messages
            if each["message"]["method"] == "Network.requestWillBeSent"
            and each["message"]["params"]["documentURL"] == self.path.as_uri()
        }


@pytest.fixture
def page(chromium: webdriver.Chrome, tmp_path: Path) -> Iterator[Page]:
    path = tmp_path / "report.html"
    write_report(path, found(), judge(found(), threshold=95, baseline=None, today=TODAY))
    page = Page(chromium, path)
    yield page
    chromium.save_screenshot(str(tmp_path / "report.png"))
    assert page.errors() == []
    assert page.ask("window.hacked") is None
    assert (tmp_path / "report.png").stat().st_size > 5000


def test_it_opens_with_every_cell_and_asks_nobody(page: Page) -> None:
    assert page.one("h1").text == f"Resilience {found().score}"
    assert page.texts("#map thead th span") == ["slow", "gone"]
    assert page.tests()[:2] == ["tests/test_shop.py::test_pays", HOSTILE]
    assert page.texts("#map tbody tr:first-child td") == ["S", "F"]
    assert len(page.all("#map tbody tr")) == 43
    assert page.one("#shown").text == "43 of 43 tests"
    assert page.requests() - {"data:,"} == {page.path.as_uri()}


def test_a_click_opens_a_cell_with_its_timeline(page: Page) -> None:
    page.one("td.failed").click()
    assert page.one("#cell-test").text == "tests/test_shop.py::test_pays"
    assert page.one("#cell-verdict").text == "failed, flaky"
    assert page.one("#cell-experiment").text == (
        "gone · connection refused on pay:443 · weight 1 · 1.800 s"
    )
    assert page.one("#cell-reason").text == f"AssertionError: {HOSTILE}"
    assert page.one("#cell-repeat code").text == (
        "pytest tests/test_shop.py::test_pays --chaos-seed 1"
    )
    assert [text.split("\n") for text in page.texts("#cell-timeline li")] == [
        ["+0.250 s", "operation", "network.connect: pay:443"],
        ["+0.250 s", "fault", "gone: refused at shop.py:3 in buy"],
        ["+1.500 s", "breaker", "payments: CLOSED to OPEN"],
        ["+1.750 s", "retry", "buy: attempt 2 in 100ms"],
    ]
    page.one("#close").click()
    assert not page.one("#cell").is_displayed()
    page.one("td.hang").click()
    assert page.one("#cell-repeat code").text == f"pytest '{HOSTILE}'"
    assert page.one("#cell-hidden").text == "nothing was recorded"
    assert page.all("#cell-timeline li") == []


def test_no_text_does_anything(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    hostile = cell(
        "failed", HOSTILE, HOSTILE, what=f"{HOSTILE}!", reason=HOSTILE, repeat=HOSTILE,
        timeline=(TimelineEntry(at=0, kind=EntryKind.LOG, source=HOSTILE, text=HOSTILE),),
    )  # fmt: skip
    strange = report(
        hostile, interrupted=HOSTILE, profiles=(HOSTILE,), configuration=HOSTILE, plugin=HOSTILE,
    )  # fmt: skip
    write_report(path, strange, judge(strange, threshold=1, baseline=None, today=TODAY))
    page = Page(chromium, path)
    page.one("td").click()
    assert page.one("#cell-test").text == HOSTILE
    assert page.one("#cell-experiment").text == f"{HOSTILE} · {HOSTILE}! · weight 1"
    assert page.one("#cell-reason").text == HOSTILE
    assert page.one("#cell-repeat code").text == HOSTILE
    assert page.one("#cell-timeline p").text == f"{HOSTILE}: {HOSTILE}"
    [heading] = page.all("#map thead th")[1:]
    assert heading.text == "</script …w.hacked = 1'>"
    assert heading.get_attribute("aria-label") == HOSTILE
    # The policy would keep them from running; they must not even be there.
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    assert page.ask("window.hacked") is None
    assert page.errors() == []


def test_the_repeat_line_can_be_copied_or_is_selected(page: Page) -> None:
    page.one("td.failed").click()
    page.one("#cell-repeat button").click()
    assert page.ask("String(getSelection())") == page.one("#cell-repeat code").text


def test_keys_are_enough(page: Page) -> None:
    page.driver.execute_script("document.querySelector('td').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.one("#cell-verdict").text == "failed, flaky"
    page.press(Keys.ESCAPE)
    assert not page.one("#cell").is_displayed()
    page.press(Keys.ARROW_DOWN)  # from where it was
    page.press(Keys.SPACE)
    assert page.one("#cell-verdict").text == "hang"
    page.press(Keys.ESCAPE)
    page.press(Keys.HOME, Keys.ARROW_DOWN, Keys.ENTER)
    assert page.one("#cell-verdict").text == "not run"
    page.press(Keys.ESCAPE)
    page.press(Keys.END)  # a test that was not under this experiment
    page.press(Keys.ENTER)
    assert not page.one("#cell").is_displayed()
    assert len(page.all("td[tabindex='0']")) == 1


def test_words_filter_the_tests(page: Page) -> None:
    page.one("#filter").send_keys("LOGIN user")
    assert page.tests() == ["tests/test_user.py::test_login"]
    assert page.one("#shown").text == "1 of 43 tests"
    page.one("#filter").send_keys(" nobody")
    assert page.tests() == []
    page.one("#filter").clear()
    page.one("#filter").send_keys("<script>")
    assert page.tests() == [HOSTILE]


def test_verdicts_filter_the_tests(page: Page) -> None:
    assert page.texts("#verdicts button") == [
        *("Hhang 1", "Ffailed 1", "Ssurvived 42", "-not run 1")
    ]
    failed = page.one("button[data-verdict=failed]")
    failed.click()
    assert failed.get_attribute("aria-pressed") == "true"
    assert page.tests() == ["tests/test_shop.py::test_pays"]
    assert [
        len(page.all(f"tr:not([hidden]) td.{each}.pale")) for each in ("failed", "survived")
    ] == [
        0,
        1,
    ]
    page.one("button[data-verdict=hang]").click()
    assert page.tests() == ["tests/test_shop.py::test_pays", HOSTILE]
    page.one("#filter").send_keys("pays")
    assert page.tests() == ["tests/test_shop.py::test_pays"]
    failed.click()
    page.one("button[data-verdict=hang]").click()
    page.one("#filter").clear()
    assert page.all("td.pale") == []


def test_the_view_stands_in_the_address(page: Page) -> None:
    page.one("#filter").send_keys("pays")
    page.one("button[data-verdict=failed]").click()
    page.one("td.failed").click()
    address = page.address
    assert address.partition("#")[2] == (
        "words=pays&verdicts=failed&test=tests%2Ftest_shop.py%3A%3Atest_pays&experiment=gone"
    )
    page.driver.get("about:blank")
    page.driver.get(address)  # as whoever it was sent to
    assert page.one("#cell-test").text == "tests/test_shop.py::test_pays"
    assert page.one("#cell-experiment").text.startswith("gone")
    page.one("#close").click()
    assert page.one("#filter").get_attribute("value") == "pays"
    assert page.one("button[data-verdict=failed]").get_attribute("aria-pressed") == "true"
    assert page.one("#shown").text == "1 of 43 tests"
    assert page.address.partition("#")[2] == "words=pays&verdicts=failed"
    page.one("button[data-verdict=failed]").click()
    page.one("#filter").clear()
    page.one("#filter").send_keys(Keys.SPACE)
    assert page.address == page.path.as_uri()


def test_an_address_of_another_report_shows_what_is_there(page: Page) -> None:
    page.turn_to("verdicts=hang,lost&test=gone&experiment=slow")
    assert page.one("button[data-verdict=hang]").get_attribute("aria-pressed") == "true"
    assert page.tests() == [HOSTILE]
    assert not page.one("#cell").is_displayed()
    page.turn_to(urlencode({"test": HOSTILE, "experiment": "gone"}))
    assert page.one("#cell-test").text == HOSTILE
    page.turn_to("")
    assert not page.one("#cell").is_displayed()
    assert page.one("#shown").text == "43 of 43 tests"


def spoken(page: Page) -> list[tuple[str, str]]:
    """The role and the name of all that a screen reader meets, in its order."""
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        (each["role"]["value"], each.get("name", {}).get("value", ""))
        for each in nodes
        if not each.get("ignored")
    ]


def test_a_screen_reader_is_told_what_is_shown(page: Page) -> None:
    told = spoken(page)
    roles = {role for role, _ in told}
    assert roles >= {"banner", "main", "contentinfo", "heading", "searchbox", "status", "grid"}
    assert ("searchbox", "filter tests") in told
    assert ("group", "filter verdicts") in told
    assert ("button", "failed 1") in told
    assert ("grid", "tests and experiments") in told
    assert [name for role, name in told if role == "columnheader"] == ["test", "slow", "gone"]
    assert ("gridcell", "failed, flaky") in told
    assert [role for role, name in told if role in {"button", "searchbox"} and not name] == []
    page.one("td.failed").click()
    dialog = spoken(page)
    assert ("dialog", "tests/ test_shop.py:: test_pays") in dialog
    assert ("button", "close") in dialog
    assert ("button", "copy") in dialog


def test_the_tab_key_goes_from_the_filters_to_the_map(page: Page) -> None:
    page.driver.execute_script("document.querySelector('#filter').focus()")
    visited = []
    for _ in range(5):
        page.press(Keys.TAB)
        visited.append(page.ask("document.activeElement.dataset.verdict"))
    assert visited == ["hang", "failed", "survived", "not_run", None]
    assert page.ask("document.activeElement.tagName") == "TD"
    page.press(Keys.ENTER)
    assert page.ask("document.activeElement.id") == "close"
    page.press(Keys.ESCAPE)
    assert page.ask("document.activeElement.tagName") == "TD"


def test_keys_go_over_what_the_filter_hides(page: Page) -> None:
    page.one("#filter").send_keys("test_3")
    page.driver.execute_script("document.querySelector('tr:not([hidden]) td').focus()")
    page.press(Keys.ARROW_DOWN)
    page.press(Keys.ENTER)
    assert page.one("#cell-test").text == "tests/test_many.py::test_30"


def test_cells_of_the_baseline_say_so(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    known = report(cell("failed"))
    gate = judge(known, threshold=None, baseline=baseline_of(known), today=TODAY)
    write_report(path, known, gate)
    page = Page(chromium, path)
    assert page.one("td.known").get_attribute("aria-label") == "failed, in the baseline"
    page.one("td.known").click()
    assert page.one("#cell-verdict").text == "failed, in the baseline"


def test_light_and_dark(page: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.ask(paper) == "rgb(255, 255, 255)"
    page.prefer("dark")
    assert page.ask(paper) == "rgb(20, 23, 26)"


CONTRAST = """
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll("#verdicts i")].map((each) => {
    const style = getComputedStyle(each);
    const page = getComputedStyle(document.querySelector("button")).backgroundColor;
    const clear = style.backgroundColor.endsWith(", 0)");
    const [a, b] = [light(style.color), light(clear ? page : style.backgroundColor)];
    return [each.className, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_can_be_read_on_their_colours(
    chromium: webdriver.Chrome, tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "report.html"
    write_report(path, report(*(cell(verdict, f"t{verdict}") for verdict in CellVerdict)))
    page = Page(chromium, path)
    page.prefer(scheme)
    contrasts = dict(page.driver.execute_script(CONTRAST))
    assert set(contrasts) == set(CellVerdict)
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}  # WCAG AA


def test_it_is_readable_on_a_phone(page: Page) -> None:
    page.show(PHONE)
    assert page.ask("document.documentElement.scrollWidth") == 390
    page.one("td.failed").click()
    box = page.one("#cell").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert page.one("#close").is_displayed()
    page.one("#close").click()


def test_a_page_of_nothing_opens_too(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, report())
    page = Page(chromium, path)
    assert page.one("h1").text == "Resilience no score"
    assert page.one("#shown").text == "0 of 0 tests"
    assert page.errors() == []


def test_experiments_may_be_many_and_names_long(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    many: list[Cell] = [
        cell("survived", f"t{test}" + "x" * 300, f"experiment {number} " + "y" * 100)
        for number in range(60)
        for test in range(3)
    ]
    write_report(path, report(*many))
    page = Page(chromium, path)
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")
    page.show(PHONE)
    assert page.ask("document.documentElement.scrollWidth") == 390
    assert page.errors() == []


def test_many_experiments_take_no_room_from_the_names_of_tests(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    name = "tests/test_bank.py::test_a_transfer_happens_once"
    write_report(path, report(*(cell("failed", name, f"fault {n}") for n in range(60))))
    page = Page(chromium, path)
    heading = "document.querySelector('#map tbody th')"
    assert page.ask(f"{heading}.getClientRects()[0].height") < 40  # one line
    page.show(PHONE)
    assert page.ask(f"{heading}.offsetWidth") > 0.4 * 390
    assert page.ask("document.documentElement.scrollWidth") == 390


def test_a_cell_says_once_which_experiment_it_is(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    what = "refused once: refusal, the first 1, target any"
    write_report(path, report(cell("not_applicable", "a", "refused once", what=what)))
    page = Page(chromium, path)
    page.all("#map td")[0].click()
    assert page.one("#cell-experiment").text == f"{what} · weight 1"


def test_headings_of_schedules_keep_operation_and_fault(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    long = "execute(file:memory?mode=memory&cache=shared)@shop.order=locked"
    path = tmp_path / "schedules.html"
    write_report(path, report(cell("failed", "a", long), cell("failed", "a", "slow network")))
    page = Page(chromium, path)
    assert page.texts("#map thead th span") == ["execute(f…p.order=locked", "slow network"]
    assert page.all("#map thead th")[1].get_attribute("aria-label") == long
    whole = "[...document.querySelectorAll('#map thead th span')].every({})"
    assert page.ask(whole.format("each => each.scrollHeight <= each.clientHeight"))


def test_a_schedule_has_room_in_the_cell_on_a_phone(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    long = "execute(file:memory?mode=memory&cache=shared)@shop.order=locked"
    path = tmp_path / "narrow.html"
    write_report(path, report(cell("failed", "a", long)))
    page = Page(chromium, path)
    page.show(PHONE)
    page.all("#map td")[0].click()
    assert page.one("#cell-experiment").text.startswith(long)
    assert page.ask("document.querySelector('#cell').scrollWidth") == page.ask(
        "document.querySelector('#cell').clientWidth"
    )
