"""The dashboard's page in a real browser, as wide as a phone and as a desktop: cells open, filters filter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluations.dashboard import main
from tests.evaluations.rows.made_up_rows import POLICIES, made_up_curves, made_up_rows, made_up_text_rows

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(None in (shutil.which("chromium"), shutil.which("chromedriver")), reason="no Chromium"),
]
PHONE, DESKTOP = 390, 1280
LINES = ".matrix tbody tr:not(.block) th"
MARKUP = "<img src=x onerror=document.title='broken'></script><!--<script>"
"""As a name: must be shown, and never be read as markup."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Two experiments that share a target, one with a target of language and names that look like markup."""
    results = tmp_path_factory.mktemp("results")
    control = [*made_up_rows("tmaze-150", 2, 6, binary=True), *made_up_curves("tmaze-150", 2, 6, binary=True)]
    renamed = {"window": f"<b>{MARKUP}</b>"}
    first = [{**row, "policy": renamed.get(row["policy"], row["policy"])} for row in control]
    text = made_up_text_rows()
    for name, rows in {"first": [*first, *text], "second": made_up_rows("tmaze-150", 1, 6, binary=True)}.items():
        (results / name).mkdir()
        damage = f'{{"half {MARKUP}\n' if name == "first" else ""
        lines = [json.dumps(row) + "\n" for row in rows]
        (results / name / "rows.jsonl").write_text("".join([*lines[:1], damage, *lines[1:]]))
    assert main([str(results)]) == 0
    return results / "dashboard.html"


@pytest.fixture(params=[PHONE, DESKTOP])
def browser(request, page) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(option)
    metrics = {"width": request.param, "height": 844, "pixelRatio": 1, "mobile": request.param == PHONE}
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    opened = webdriver.Chrome(options=options, service=service)
    opened.get(page.as_uri())
    yield opened
    told = opened.get_log("browser")
    title = opened.title
    opened.quit()
    assert told == []  # no error, no warning, and nothing was asked of a network
    assert title == "NAMM dashboard"


def shown(browser: Any, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements("css selector", selector)]


def is_open(browser: Any) -> bool:
    return browser.execute_script("return document.getElementById('opened').open")


def press(browser: Any, line: str, value: str) -> None:
    browser.execute_script("document.getElementById('choice').open = true")
    (button,) = browser.find_elements("xpath", f"//div[@aria-label='{line}']/button[text()='{value}']")
    button.click()


def test_the_page_is_no_wider_than_the_screen_and_draws_all_panels(browser):
    def width() -> list[int]:
        return browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")

    assert width()[0] == width()[1] in (PHONE, DESKTOP)
    titles = shown(browser, "#sections h3")
    assert {"Score by policy", "Return", "Kept by age", "Layers and heads", "All results"} <= set(titles)
    assert len(browser.find_elements("css selector", "#sections .js-plotly-plot")) == len(titles) - 1  # and the table
    assert f"<b>{MARKUP}</b>" in shown(browser, LINES)
    (remark,) = shown(browser, ".remarks li")
    assert "line 2 left out: no JSON object" in remark


def test_a_cell_opens_by_a_press_and_holds_what_it_was_made_of(browser):
    cell = browser.find_element("css selector", ".cell[aria-label^='namm:target on tmaze-150']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", cell)
    cell.click()
    assert is_open(browser)
    assert shown(browser, "#opened-title") == ["namm:target on tmaze-150"]
    assert shown(browser, "#opened .sides h3") == ["first", "second"]  # side by side, or below each other on a phone
    assert {"of the full cache", "kept", "keys and values", "against full"} <= set(shown(browser, "#opened dt"))
    wide = browser.execute_script("const d = document.getElementById('opened'); return [d.scrollWidth, d.clientWidth]")
    assert wide[0] == wide[1]
    titles = shown(browser, "#opened .panel h3")
    assert {"Score against size", "Return", "Cache over one episode", "Kept by age", "Layers and heads"} <= set(titles)
    assert "open=" in browser.current_url
    browser.get(browser.current_url)  # the address, sent to somebody
    browser.refresh()
    assert is_open(browser)
    browser.find_element("css selector", ".close").click()
    assert not is_open(browser)
    assert "open=" not in browser.current_url


def test_cells_are_walked_and_opened_by_the_keyboard(browser):
    from selenium.webdriver.common.keys import Keys

    first = browser.find_element("css selector", ".cell[aria-label^='full on tmaze-150']")
    browser.execute_script("arguments[0].focus()", first)
    for key in (Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER):
        browser.switch_to.active_element.send_keys(key)
    assert shown(browser, "#opened-title") == ["namm:target on recall-llama/pairs"]
    example = browser.find_element("css selector", "#opened .example")
    assert "what is <i>lost</i>?" in example.text
    assert "<b>salt</b> & </script> is lost" in example.text
    assert not example.find_elements("css selector", "b, i, script")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not is_open(browser)
    label = browser.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("namm:target on recall-llama/pairs")  # where it was before


def test_filters_leave_what_was_chosen(browser):
    assert shown(browser, ".matrix thead tr:last-child th")
    press(browser, "modality", "text")
    press(browser, "panels of", "recall-llama/pairs")
    assert [head.split("\n")[0] for head in shown(browser, ".matrix thead tr:last-child th")] == ["recall-llama/pairs"]
    press(browser, "policy", "namm:target")
    assert shown(browser, LINES) == ["namm:target"]
    press(browser, "policy", "all")
    assert len(shown(browser, LINES)) == len(POLICIES) - 1
    press(browser, "memory", "everything")
    assert shown(browser, LINES) == ["full"]
    assert "modality: text" in browser.find_element("css selector", "#choice summary").text
    press(browser, "memory", "everything")  # the last one that is on: all are
    press(browser, "modality", "text")
    press(browser, "experiment", "second")
    assert len(shown(browser, ".matrix thead tr")) == 1  # no line for experiments where there is one
    assert [head.split("\n")[0] for head in shown(browser, ".matrix thead th")] == ["tmaze-150"]
    press(browser, "modality", "text")
    assert shown(browser, ".matrix") == []
    assert "No result has all that is chosen" in browser.find_element("css selector", "#sections").text
