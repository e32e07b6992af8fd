"""The page of rows in a real browser without a screen: Debian's `chromium`, `chromium-driver`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rir_hf import show, write_report
from tests.reports.test_page import HOSTILE, rows_of

pytestmark = pytest.mark.slow

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--no-first-run"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# The browser lays out rows only where one looks, unless told to.
ALL_OPEN = """
for (const one of list.children) {
  one.style.contentVisibility = "visible";
  unfold(one);
}
"""

# Every text against the colour that lies behind it, below what WCAG AA asks for.
TOO_PALE = """
const light = (colour) => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
  const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour.endsWith(", 0)") ? behind(element.parentElement) : colour;
};
const isText = (node) => node.nodeType === 3 && node.data.trim();
const hasText = (element) => [...element.childNodes].some(isText);
return [...document.body.querySelectorAll("*:not(script, noscript, option, :disabled)")]
  .filter((element) => hasText(element) || element.matches("input, select"))
  .map((element) => {
    const style = getComputedStyle(element);
    const front = element.matches("text") ? style.fill : style.color;
    const [pale, strong] = [light(front), light(behind(element))].sort((a, b) => a - b);
    return [element.outerHTML.slice(0, 80), (strong + 0.05) / (pale + 0.05)];
  })
  .filter(([, ratio]) => ratio < 4.5);
"""


class Browser:
    """A browser with what the tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.get(path.as_uri())

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def until(self, script: str) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 10).until(lambda driver: driver.execute_script(script), script)

    @property
    def status(self) -> str:
        return str(self.run("return document.getElementById('status').textContent"))

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def choose(self, select: str, value: str) -> None:
        self.run(
            "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
            "it.dispatchEvent(new Event('change'))",
            select,
            value,
        )

    def requests(self) -> list[str]:
        entries = [
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        ]
        sent = [one["params"] for one in entries if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser of its own without a screen, skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("no browser is here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield Browser(started)
    started.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five thousand rows, the teacher disagrees with 20 of them, and 60 have a note."""
    rows = [
        {
            "query": f"what purrs, number {i}",
            "neg_scores": [2.5 if i % 250 == 7 else 1.0, -1.0],
            "neg_note": "below_min_score" if i < 60 else None,
            "pos": [f"Cats purr {'and purr ' * (i % 40)}in {i}."],
        }
        for i in range(5000)
    ]
    path = tmp_path_factory.mktemp("page") / "rows.html"
    write_report(rows_of(*rows), path)
    return path


def test_search_filters_sorting_and_pages_show_what_they_say(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.status == "Rows 1 to 50 of 5,000"
    assert browser.run("return document.querySelectorAll('article').length") == 50
    assert browser.run("return document.querySelector('article h3').textContent").endswith(" 7")

    browser.run("document.getElementById('find').focus()")
    browser.press("NUMBER 499")
    browser.until("return document.getElementById('status').textContent === 'Rows 1 to 15 of 15'")
    browser.run("find.value = ''; update()")
    browser.choose("kind", "teacher_above")
    assert browser.status == "Rows 1 to 20 of 20"
    assert "The teacher puts negative 1 (2.5) above positive 1 (2)." in browser.run(
        "return document.querySelector('.reasons').textContent"
    )
    browser.choose("kind", "")
    browser.run("document.getElementById('noted').click()")
    assert browser.status == "Rows 1 to 50 of 60"
    browser.run("document.getElementById('on').click()")
    assert browser.status == "Rows 51 to 60 of 60"
    browser.run("document.getElementById('noted').click()")
    browser.choose("sort", "number")
    assert browser.run("return document.querySelector('article h3').textContent").endswith(" 0")
    browser.choose("sort", "score_margin")
    assert browser.run("return found[0].score_margin") == -0.5
    browser.run("find.value = 'nothing is like this'; update()")
    assert browser.status == "No row is like that"
    marks = "return [...document.querySelectorAll('article mark')].map((one) => one.textContent)"
    browser.run("find.value = 'number 4999'; update()")
    assert set(browser.run(marks)) == {"4999"}, "and not what most passages say"


def test_the_keyboard_moves_from_row_to_row_and_opens_them(browser: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    place = "return [...list.children].indexOf(document.activeElement)"
    browser.open(page)
    browser.press("j")
    assert browser.run(place) == 0
    browser.press(Keys.ARROW_DOWN, "j")
    assert browser.run(place) == 2
    browser.press("k")
    browser.press(Keys.ARROW_UP)
    assert browser.run(place) == 0
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) == "solid"
    browser.choose("sort", "number")
    browser.run("focusOn(list.children[49])")
    browser.press("j")
    assert (browser.status, browser.run(place)) == ("Rows 51 to 100 of 5,000", 0)
    browser.press("k")
    assert (browser.status, browser.run(place)) == ("Rows 1 to 50 of 5,000", 49)
    browser.run("focusOn(list.children[38])")
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.classList.contains('open')")
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "find"
    browser.press("jk/")
    assert browser.run("return find.value") == "jk/", "letters that are typed are letters"
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.id") == "kind"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_and_a_narrow_window_is_enough(
    browser: Browser, page: Path, scheme: str
) -> None:
    browser.open(page, scheme=scheme)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.run(TOO_PALE) == []
    browser.open(page, width=360, scheme=scheme)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.run(ALL_OPEN)
    assert browser.run("return document.documentElement.scrollWidth") == 360


def test_hostile_texts_are_texts_and_nothing_leaves_the_page(
    browser: Browser, tmp_path: Path
) -> None:
    rows = Dataset.from_dict({"query": HOSTILE, "pos": [HOSTILE] * 8, "neg": [HOSTILE] * 8})
    write_report(rows, tmp_path / "rows.html")
    browser.open(tmp_path / "rows.html", width=360)
    assert browser.run("return document.title") == "rows: 8 rows"
    titles = dict(
        browser.run(
            "return [...document.querySelectorAll('article h3')]"
            ".map((one) => [one.id, one.textContent])"
        )
    )
    for number, text in enumerate(HOSTILE):
        assert titles[f"row-{number}"] == (text if len(text) <= 4000 else f"{text[:4000]}…")
    assert browser.run("return document.querySelectorAll('script, img').length") == 2
    browser.run(ALL_OPEN)
    assert browser.run("return document.documentElement.scrollWidth") == 360
    assert browser.driver.get_log("browser") == []
    assert browser.requests() == [(tmp_path / "rows.html").as_uri()]
    blocked = browser.driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (event) => done(event.blockedURI));"
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))"
    )
    assert blocked.startswith("http://127.0.0.1:9")


def test_the_frame_of_a_notebook_draws_the_rows(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(f"<p>A cell</p>{show(rows_of({}, {}), 1)._repr_html_()}", encoding="utf-8")
    browser.open(path)
    browser.driver.switch_to.frame(0)
    browser.until("return document.getElementById('status').textContent === 'Rows 1 to 1 of 1'")
    browser.driver.switch_to.default_content()
    assert browser.driver.get_log("browser") == []
