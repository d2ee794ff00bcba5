"""The report of an evaluation in a real browser: on a desk, on a phone, by keyboard and finger, and on paper."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_evaluation import page_parts, write_calibrated
from selenium.webdriver.common.keys import Keys

from cgm2net.evaluation.page import write_page

if TYPE_CHECKING:
    from browser import Browser

pytest_plugins = ("browser",)

CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
const ground = (e) => {
  if (e.matches('text.cell')) return rgba(getComputedStyle(e.previousElementSibling).fill);
  for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 200) return c; }
};
const ratio = (e) => {
  const style = getComputedStyle(e);
  const both = [light(rgba(e.closest('svg') ? style.fill : style.color)), light(ground(e))].sort((a, b) => b - a);
  return (both[0] + 0.05) / (both[1] + 0.05);
};
return [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('script, title') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => [e.outerHTML.slice(0, 80), ratio(e)]);
"""
"""Contrast as WCAG 2.2 defines it, of every element with text of its own; colours are read back from a canvas, which
knows every notation."""

TOO_WIDE = """
return [...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_calibrated(tmp_path_factory.mktemp("evaluate"))
    write_page(folder, folder / "report.html", parts=page_parts())
    return folder / "report.html"


def test_page_is_quiet_and_asks_for_nothing(browser: "Browser", page: Path) -> None:
    browser.open(page)
    assert browser.messages() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.title") == "A <b>bold</b> run"


def test_slider_moves_by_keyboard(browser: "Browser", page: Path) -> None:
    browser.open(page)
    slider = browser.find(".slider input")[0]
    left = "return getComputedStyle(document.querySelector('.slider img.left')).clipPath"
    assert browser.run(left) == "inset(0px 50% 0px 0px)"
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert browser.run(left) == "inset(0px 40% 0px 0px)"
    assert slider.get_attribute("aria-valuetext") == "60 % cloudy, 40 % restored"
    slider.send_keys(Keys.HOME)
    assert browser.run(left) == "inset(0px 100% 0px 0px)"


def test_one_choice_turns_every_tile(browser: "Browser", page: Path) -> None:
    browser.open(page)
    browser.find(".views input")[0].send_keys(Keys.ARROW_RIGHT * 2)
    shown = "return [...document.querySelectorAll('.slider')].map(s => [...s.querySelectorAll('img')].map(i => i.alt))"
    assert browser.run(shown) == [
        [f"Tile {tile}: mapped land cover", f"Tile {tile}: true land cover"] for tile in ("n1_0_0", "s1_0_0")
    ]
    assert [tag.text for tag in browser.find(".slider .tag")] == ["label", "mapped"] * 2


def test_slider_follows_a_finger(browser: "Browser", page: Path) -> None:
    browser.open(page, width_px=360)
    slider = browser.find(".slider input")[0]
    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", slider)
    where = browser.run("const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", slider)
    browser.tap(where[0] + 0.25 * where[2], where[1] + 0.5 * where[3])
    assert float(slider.get_property("value")) == pytest.approx(25, abs=1)


@pytest.mark.parametrize("scripts", [True, False])
def test_phone_scrolls_down_only(browser: "Browser", page: Path, scripts: bool) -> None:
    browser.open(page, width_px=360, scripts=scripts)
    browser.allow_scripts()
    assert browser.run("return document.documentElement.scrollWidth") == 360
    assert browser.run(TOO_WIDE) == []


def test_without_scripts_all_pictures_stand_side_by_side(browser: "Browser", page: Path) -> None:
    browser.open(page, scripts=False)
    browser.allow_scripts()
    visible = [image for image in browser.find(".strip img") if image.is_displayed()]
    assert [image.get_attribute("data-name") for image in visible[:5]] == [
        "cloudy", "restored", "reference", "label", "predicted"
    ]  # fmt: skip
    assert len(visible) == 10
    assert not browser.find(".views")[0].is_displayed()
    assert browser.find(".slider") == []


def test_paper_is_white_and_shows_all_pictures(browser: "Browser", page: Path) -> None:
    browser.open(page, dark=True)
    browser.print_media()
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(image.is_displayed() for image in browser.find(".strip img"))
    assert not any(element.is_displayed() for element in browser.find(".slider, .views, nav"))
    assert [text for text, ratio in browser.run(CONTRASTS) if not ratio >= 4.5] == []
    document = browser.pdf()
    assert document.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", document)) <= 8


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser: "Browser", page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)
    ratios = browser.run(CONTRASTS)
    assert len(ratios) > 100
    assert [(text, ratio) for text, ratio in ratios if not ratio >= 4.5] == []
