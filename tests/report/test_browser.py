"""The HTML report in a real browser: Debian's chromium, headless. Skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.records.history import HistoryPoint
from pytest_dspy_ft.report.html import render
from tests.records.histories import point
from tests.report.pages import wide_run
from tests.report.test_html import EVIL, full_run

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="chromium or chromedriver is not installed (apt-get install chromium-driver)",
)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000"

CONTRAST = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const back = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  if (!e.closest("script, style, svg, .hidden, .skip, noscript, option") && e.checkVisibility()
      && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(back(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(e.className + ": " + e.textContent.slice(0, 40));
  }
}
return poor;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser: Any, tmp_path: Path) -> Any:
    """Show a record's page; the browser itself is the same for all tests."""

    def show(history: Sequence[HistoryPoint] = (), **fields: Any) -> Any:
        path = tmp_path / "run.html"
        path.write_text(render(full_run(**fields), history), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    return show


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        ActionChains(browser).send_keys(getattr(Keys, key, key)).perform()


def focused(browser: Any) -> str:
    """What has the focus, in a word."""
    return str(
        browser.execute_script(
            "const e = document.activeElement;"
            "return e.name ? e.name + (e.type === 'radio' ? ':' + e.value : '') : (e.className || e.textContent.trim())"
        )
    )


def tab_to(browser: Any, wanted: str) -> list[str]:
    """Press Tab until something has the focus; gives what had it on the way."""
    way: list[str] = []
    while (now := focused(browser)) != wanted:
        way.append(now)
        assert len(way) < 60, way
        press(browser, "TAB")
    return way


def status(browser: Any) -> str:
    return str(browser.execute_script("return document.querySelector('.status').textContent"))


def rows(browser: Any) -> list[str]:
    return list(
        browser.execute_script("return [...document.querySelectorAll('tr.row button')].map((b) => b.textContent)")
    )


def wait_for_status(browser: Any, words: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda b: status(b) == words)


def test_filters_and_rows_by_keyboard(shown: Any) -> None:
    browser = shown()
    assert status(browser) == "Showing the first 25 of 60 examples."
    press(browser, "TAB")
    assert focused(browser) == "skip"
    way = tab_to(browser, "split")
    assert way[1] == "Gates", "the parts of the page come first"
    assert tab_to(browser, "search") == ["split", "before", "after", "way"]
    assert tab_to(browser, "filter:all") == ["search"]
    press(browser, "ARROW_RIGHT")
    assert focused(browser) == "filter:fixed"
    assert status(browser) == "Showing 22 examples out of 60."
    press(browser, "ARROW_RIGHT")
    assert status(browser) == "Showing 2 examples out of 60."
    assert [row.split()[2] for row in rows(browser)] == ["0", "1"], "the two that finetuned broke"
    press(browser, "TAB")
    assert focused(browser) == "open"
    press(browser, "ENTER")
    inside = browser.execute_script("return document.querySelector('tr.inside').innerText")
    assert "gold 0" in inside
    assert inside.count("billing") >= 3
    press(browser, " ")
    assert browser.execute_script("return document.querySelectorAll('tr.inside').length") == 0
    assert browser.execute_script("return document.activeElement.getAttribute('aria-expanded')") == "false"


def test_unparsed_and_errors_are_those_of_the_chosen_stage(shown: Any) -> None:
    browser = shown()
    counts = "return [...document.querySelectorAll('.filters span')].map((s) => s.textContent)"
    assert browser.execute_script(counts) == ["All 60", "Fixed 22", "Broken 2", "Wrong 7", "Unparsed 0", "Errors 0"]
    tab_to(browser, "after")
    press(browser, "ARROW_UP")
    tab_to(browser, "filter:all")
    assert browser.execute_script(counts)[-2:] == ["Unparsed 2", "Errors 1"]
    press(browser, "ARROW_LEFT")
    assert focused(browser) == "filter:error"
    assert len(rows(browser)) == 1
    assert "error: billing: no category in 35" in browser.execute_script(
        "return document.querySelector('tr.row').textContent"
    )


def test_the_way_up_the_ladder(shown: Any) -> None:
    browser = shown()
    ways = "return [...document.querySelector('[name=way]').options].map((o) => o.text)"
    assert browser.execute_script(ways) == ["any", "learned", "forgotten", "never right", "unmeasured"]
    tab_to(browser, "way")
    press(browser, "f")
    assert status(browser) == "Showing 2 examples out of 60."
    browser.execute_script("document.querySelector('tr.row button').click()")
    assert "forgotten" in browser.execute_script("return document.querySelector('tr.inside').innerText")


def test_search(shown: Any) -> None:
    browser = shown()
    tab_to(browser, "search")
    press(browser, *"NUMBER 17")
    wait_for_status(browser, "Showing 1 example out of 60.")
    assert rows(browser)[0].startswith("ticket number 17 ")
    press(browser, *" nowhere")
    wait_for_status(browser, "Showing no examples out of 60.")


def test_more_by_keyboard_moves_on_to_what_is_new(shown: Any) -> None:
    browser = shown()
    tab_to(browser, "filter:all")
    browser.execute_script("document.querySelector('.more').focus()")
    press(browser, "ENTER")
    assert status(browser) == "Showing the first 50 of 60 examples."
    assert browser.execute_script("return document.activeElement.textContent").startswith("ticket number 25 ")
    browser.execute_script("document.querySelector('.more').focus()")
    press(browser, "ENTER")
    assert len(rows(browser)) == 60
    assert not browser.execute_script("return document.querySelector('.more').checkVisibility()")


def test_raw_replies_unfold_in_an_opened_row(shown: Any) -> None:
    browser = shown()
    assert browser.execute_script("return document.querySelectorAll('.reply').length") == 0, (
        "made when they are asked for"
    )
    browser.execute_script("document.querySelector('tr.row button').click()")
    folded = browser.execute_script("return document.querySelector('tr.inside').innerText")
    assert "2 raw replies" in folded
    assert "cut billing" not in folded
    browser.execute_script("document.querySelector('.reply summary').click()")
    unfolded = browser.execute_script("return document.querySelector('tr.inside').innerText")
    assert "toy · ended: length · cut off at 16 tokens · 0 + 16 tokens" in unfolded
    assert "cut billing" in unfolded
    assert browser.execute_script(CONTRAST) == []


def test_hostile_text_stays_text(shown: Any) -> None:
    browser = shown(said=EVIL)
    browser.execute_script("document.querySelector('tr.row button').click()")
    browser.execute_script("document.querySelector('.reply').open = true")
    assert browser.execute_script("return window.pwned") is None
    assert "<script>window.pwned=1</script>" in browser.execute_script(
        "return document.querySelector('tr.inside').innerText"
    )
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


def test_the_policy_stops_what_is_not_ours(shown: Any) -> None:
    browser = shown()
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 3'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<i onclick=\"window.pwned=4\" id=evil>x</i>');"
        "document.getElementById('evil').click()"
    )
    assert browser.execute_script("return window.pwned") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(shown: Any, scheme: str) -> None:
    browser = shown()
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(246, 247, 249)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert browser.execute_script(CONTRAST) == []


def test_a_cell_of_the_confusion_matrix_leads_to_its_examples(shown: Any) -> None:
    browser = shown()
    opened = "return [...document.querySelectorAll('.behind details[open] summary')].map((e) => e.innerText.trim())"
    assert browser.execute_script(opened) == []
    cells = browser.find_elements("css selector", ".confusion td.wrong a")
    [cell] = [cell for cell in cells if cell.get_attribute("aria-label") == "30 answers billing for no billing"]
    browser.execute_script("arguments[0].focus()", cell)
    press(browser, "ENTER")
    assert browser.execute_script(opened) == ["no billing answered billing 30"]
    assert "ticket number 30 billing" in browser.execute_script("return document.querySelector(':target').innerText")


def test_a_phone_scrolls_down_only(shown: Any) -> None:
    browser = shown(said="a-long-word-" * 40)
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
        assert not browser.execute_script("return document.querySelector('.rows thead').checkVisibility()")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_and_paper_shows_everything(shown: Any) -> None:
    browser = shown()
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input, select, button:not([hidden]), [role=region], [role=img]')]"
        ".filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel || e.ariaLabelledByElements?.length))"
        ".map((e) => e.outerHTML)"
    )
    assert unnamed == []
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") > 0


def test_ten_thousand_examples(shown: Any) -> None:
    browser = shown(dev=10_000)
    assert status(browser) == "Showing the first 25 of 10000 examples."
    assert len(rows(browser)) == 25
    tab_to(browser, "search")
    press(browser, *"number 9876")
    wait_for_status(browser, "Showing 1 example out of 10000.")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_trend_fits_and_can_be_read(shown: Any, width: int, scheme: str) -> None:
    [experiment] = full_run().experiments
    days = [(0.7, {}), (0.75, {"dirty": True}), (0.6, {"base": "toy/with-a-name-that-is-long", "build": "c"})]
    history = [
        point(score + rung / 10, day, stage=stage, rung=rung, experiment=experiment.name, **changes)
        for day, (score, changes) in enumerate(days, 1)
        for rung, stage in enumerate(("baseline", "finetuned"))
    ]
    browser = shown(history)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    schemes = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", schemes)
    browser.execute_script("document.querySelectorAll('.trend details').forEach((d) => { d.open = true; })")
    charts = "return [...document.querySelectorAll('.trend svg[role=img]')].map((s) => s.getAttribute('aria-label'))"
    assert browser.execute_script(charts) == [
        f"{stage} on dev, 3 sessions: from {first} on 2026-11-01 to {last} on 2026-11-03; best {best}, worst {last}"
        for stage, first, last, best in (
            ("baseline", "70.0%", "60.0%", "75.0%"),
            ("finetuned", "80.0%", "70.0%", "85.0%"),
        )
    ]
    assert browser.execute_script("return document.querySelectorAll('.trend line.break').length") == 2
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = """
        return [...document.querySelectorAll(".trend .scale, .trend circle, .trend .axis span")].filter((e) => {
          const [own, panel] = [e, e.closest("figure")].map((x) => x.getBoundingClientRect());
          return own.left < panel.left || own.right > panel.right;
        }).length"""
    assert browser.execute_script(outside) == 0
    assert browser.execute_script(CONTRAST) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_wide_things_fit_and_can_be_read(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    run, history = wide_run()
    path = tmp_path / "run.html"
    path.write_text(render(run, history), encoding="utf-8")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    schemes = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", schemes)
    try:
        browser.get(path.as_uri())
        browser.execute_script("document.querySelector('tr.row button').click()")
        browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        there = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).length"
        for what, least in ((".confusion", 2), (".reply pre", 2), (".trend svg[role=img]", 3), (".trend table", 3)):
            assert browser.execute_script(there, what) >= least, what
        assert "cites_its_source" in browser.execute_script(
            "return document.querySelector('.ladder + .scroll').innerText"
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        outside = """
            const page = document.documentElement.clientWidth;
            return [...document.querySelectorAll("section *")].filter((e) => e.checkVisibility()
              && !e.closest(".scroll table, .columns, svg, .hidden") && e.getBoundingClientRect().right > page + 1
            ).map((e) => e.outerHTML.slice(0, 80))"""
        assert browser.execute_script(outside) == []
        names = """
            return [...document.querySelectorAll(".scroll:has(tbody th)")].filter((s) => { s.scrollLeft = 9999;
              const [box, name] = [s, s.querySelector("tbody th")].map((e) => e.getBoundingClientRect());
              return name.left < box.left - 1 || name.width > box.width / 2; }).map((s) => s.ariaLabel)"""
        assert browser.execute_script(names) == [], "rows keep their names when they are scrolled"
        assert browser.execute_script(CONTRAST) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
