"""The page in a real browser: drawn, sortable, without an error or a request, at a desktop's and a phone's width."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reports import fake
from vlmerge_cli.reports import build

pytest.importorskip("matplotlib")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> build.Written:
    rows = fake.study(seeds=(1, 2))
    return build.write(rows + fake.costs(rows), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = BROWSER or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, written: build.Written) -> Any:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(written.page.as_uri())
    return browser


def narrow(page: Any, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )


def scheme(page: Any, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})


def column(page: Any, table: str, place: int) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((c) => c.textContent.trim())"
    return page.execute_script(script, f"#{table} tbody tr > :nth-child({place + 1})")  # type: ignore[no-any-return]


def heading(page: Any, table: str, place: int) -> Any:
    from selenium.webdriver.common.by import By

    return page.find_element(By.CSS_SELECTOR, f"#{table} thead tr:last-child th:nth-child({place + 1}) button")


def test_no_error_and_no_request_leaves_the_page(page: Any, written: build.Written) -> None:
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert written.page.as_uri() in asked
    # chrome: and chrome-untrusted: are what the browser itself shows before the page.
    assert {url for url in asked if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))} == {
        written.page.as_uri()
    }


def test_every_figure_is_drawn(page: Any, written: build.Written) -> None:
    """Each panel has a size, and something in it has one."""
    for figure in written.document.figures():
        sizes = page.execute_script(
            """return [...document.querySelectorAll(`#${arguments[0]} .panels > svg`)].map((svg) => {
              const box = svg.getBoundingClientRect();
              const parts = [...svg.querySelectorAll("path, use, text")];
              const drawn = parts.filter((x) => x.getBoundingClientRect().width > 0);
              return [box.width, box.height, drawn.length];
            })""",
            figure.name,
        )
        assert len(sizes) == len(figure.panels), figure.name
        assert all(width > 100 and height > 50 and num > 3 for width, height, num in sizes), (figure.name, sizes)


def test_tables_sort_by_their_headings(page: Any) -> None:
    before = column(page, "table-2a", 1)
    heading(page, "table-2a", 1).click()
    rising = [float(text.split()[0]) for text in column(page, "table-2a", 1)]
    assert rising == sorted(rising)
    assert len(set(rising)) > 1
    heading(page, "table-2a", 1).click()
    assert [float(text.split()[0]) for text in column(page, "table-2a", 1)] == rising[::-1]
    assert heading(page, "table-2a", 1).find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    heading(page, "table-2a", 1).click()
    assert column(page, "table-2a", 1) == before


def test_tables_sort_by_keyboard_and_by_words(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    heading(page, "scores", 0).send_keys(Keys.ENTER)
    names = column(page, "scores", 0)
    assert names == sorted(names, key=str.casefold)
    assert len(set(names)) > 1


def test_cells_without_a_record_stay_last(page: Any) -> None:
    for _ in range(2):  # rising, then falling
        heading(page, "scores", 4).click()
        cells = column(page, "scores", 4)
        assert "–" in cells
        assert cells.index("–") == len(cells) - cells.count("–")


def test_nothing_overflows_on_a_phone(page: Any) -> None:
    narrow(page, 390)
    page.execute_script("document.querySelector('.open-all').click()")
    wide = page.execute_script(
        """const inside = (x) => x.closest(".scroll, svg");
        return [document.documentElement.scrollWidth, ...[...document.querySelectorAll("body *")]
          .filter((x) => !inside(x) && x.getBoundingClientRect().right > 391).map((x) => x.outerHTML.slice(0, 80))]"""
    )
    assert wide == [390]
    scrolls = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter((x) => x.scrollWidth > x.clientWidth + 1).length"
    )
    assert scrolls > 0  # wide tables scroll within their box


def test_no_table_is_cut_on_a_desk(page: Any) -> None:
    cut = page.execute_script(
        """return [...document.querySelectorAll('.scroll')].filter((x) => x.scrollWidth > x.clientWidth + 1)
          .map((x) => x.parentElement.id)"""
    )
    assert cut == []


def test_marks_differ_by_their_shape(page: Any) -> None:
    looks = page.execute_script(
        """return [...document.querySelectorAll('.tally .dot')].map((x) => {
          const style = getComputedStyle(x);
          return [style.clipPath, style.borderRadius, style.boxShadow === "none", style.height].join(" ");
        })"""
    )
    assert len(looks) == len(set(looks)) > 1


def test_the_numbers_behind_a_verdict_open(page: Any) -> None:
    closed = "return document.querySelectorAll('details.verdict:not([open])').length"
    assert page.execute_script(closed) > 10
    page.execute_script("document.querySelector('.open-all').click()")
    assert page.execute_script(closed) == 0


@pytest.mark.parametrize(("name", "dark"), [("light", False), ("dark", True)])
def test_ink_and_paper_follow_the_scheme(name: str, dark: bool, page: Any) -> None:
    """Text on the page and in the figures contrasts with the page by at least 4.5 to 1 (WCAG AA)."""
    scheme(page, name)
    script = """
      const light = (text) => { const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const style = (x) => getComputedStyle(x);
      const inks = [style(document.body).color, style(document.querySelector(".panels svg text")).fill,
        ...[...document.querySelectorAll(".chip, .note, td.paper, small, cite, nav a")].map((x) => style(x).color)];
      return [light(style(document.body).backgroundColor), inks.map(light)]"""
    paper, inks = page.execute_script(script)
    assert (paper < 0.1) == dark
    for ink in inks:
        low, high = sorted((ink, paper))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_other_pages_open_without_an_error(browser: Any, tmp_path: Path) -> None:
    from tests.reports.pages.test_pages import merged, point, row

    rows = [point(30 + a, merged("interpolation", alpha=a)) for a in (0.0, 0.5, 1.0)] + [point(50, None)]
    rows += [row("train", step, loss=4.0 - step / 10) for step in (5, 10)] + [row("validation", 10, accuracy=60.0)]
    written = build.write(rows, tmp_path)
    browser.get(written.page.as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('.panels > svg').length") == 3
