"""docs/make_pictures.py records what a terminal showed, and the pictures that are there are fit to show."""

from __future__ import annotations

import importlib.util
import re
import struct
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("pyte")

IMAGES = REPOSITORY / "docs" / "images"
LARGEST = 300_000
SVG = "{http://www.w3.org/2000/svg}"
TALK = """
import os, sys, time
for share in range(0, 101, 10):
    print(f"\\rbuilding {share} %", end="", flush=True)
    time.sleep(0.05)
print(f"\\n\\033[32m<passed> & done\\033[0m in {os.getcwd()}/here")
print("\\033[1m" + "x" * 130 + "\\033[0m", os.get_terminal_size().columns, sys.stdout.isatty())
sys.exit(3)
"""


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_pictures", REPOSITORY / "docs" / "make_pictures.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["make_pictures"] = module
    found.loader.exec_module(module)
    return module


def screens(svg: str, character: float = 8.4) -> list[list[str]]:
    """The lines of each frame of a picture."""
    root = ElementTree.fromstring(svg)
    lines = {}
    for drawn in root.iterfind(f"{SVG}defs/{SVG}g"):
        line = ""
        for piece in drawn:
            line = line.ljust(round(float(piece.get("x", "")) / character)) + (piece.text or "")
        lines[f"#{drawn.get('id')}"] = line
    [film] = [one for one in root.iter(f"{SVG}g") if one.get("class") == "film"]
    return [[lines[use.get("href", "")] for use in frame] for frame in film]


def test_a_recording_shows_what_the_terminal_showed(pictures: ModuleType, tmp_path: Path) -> None:
    frames, code = pictures.record([sys.executable, "-c", TALK], tmp_path, "talk --loud", {})
    assert code == 3
    svg = pictures.as_svg(frames, "A <title>")
    assert str(tmp_path) not in svg
    shown = screens(svg)
    assert shown[0] == ["$ talk --loud"]
    assert shown[-1][:3] == ["$ talk --loud", "building 100 %", "<passed> & done in here"]
    assert shown[-1][3:] == ["x" * pictures.COLUMNS, "x" * 10 + f" {pictures.COLUMNS} True"]
    assert len(shown) > 2  # and something in between
    assert pictures.COLOURS["green"] in svg
    assert "prefers-reduced-motion" in svg


def test_a_long_session_has_few_frames_and_no_long_waits(pictures: ModuleType) -> None:
    frames = [pictures.Frame(10.0 * n, (((0, str(n), ("default", False)),),)) for n in range(1000)]
    shown = pictures.chosen(frames)
    assert len(shown) == pictures.MOST_FRAMES
    assert (shown[0][0], shown[-1][0]) == (frames[0], frames[-1])
    assert all(seconds <= pictures.LONGEST_WAIT for _, seconds in shown[:-1])
    assert len(screens(pictures.as_svg(frames[:3], ""))) == 3


@pytest.mark.parametrize("name", ["session.svg", "report.png", "report-dark.png", "examples.png"])
def test_the_pictures_are_there_small_and_say_nothing_of_a_machine(name: str) -> None:
    path = IMAGES / name
    assert 10_000 < path.stat().st_size < LARGEST
    if path.suffix == ".png":
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width == 1280
        assert height > 600
    else:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|tmp|work|usr)/", text)
        assert "dspy" in "".join(screens(text)[-1])
