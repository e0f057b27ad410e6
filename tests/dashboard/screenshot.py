"""Photograph the dashboard for the README.

    python -m tests.dashboard.screenshot [URL] [-o docs/images/dashboard.png] [--theme dark] [--width 1280] [--height 1040]

Without a URL it photographs a made-up busy fleet. Needs Chromium; the Inter typeface (Debian: fonts-inter) looks best.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.dashboard.browser import CHROMIUM, FLAGS
from tests.dashboard.host import serving
from tests.dashboard.seed import busy_fleet

MAX_BYTES = 400_000
COLOURS = 256


def photograph(url: str, *, theme: str, width: int, height: int) -> bytes:
    """A PNG of the page at twice its size, once it is live."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=2,
            color_scheme="dark" if theme == "dark" else "light",
        )
        page.goto(url)
        expect(page.locator("#live")).to_have_text("Live")
        data = page.screenshot()
        browser.close()
        return data


def smaller(png: bytes) -> bytes:
    """The same picture with a palette: flat colours need no more."""
    output = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE).save(
        output, "PNG", optimize=True
    )
    return output.getvalue()


def main() -> None:
    """Read the arguments, take the picture, write the file."""
    parser = argparse.ArgumentParser(description="Photograph the dashboard.")
    parser.add_argument("url", nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/dashboard.png"))
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=960)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.url or _made_up_fleet(stack)
        data = smaller(photograph(url, theme=arguments.theme, width=arguments.width, height=arguments.height))
    if len(data) > MAX_BYTES:
        raise SystemExit(f"the picture has {len(data):,} bytes, {MAX_BYTES:,} are allowed: choose a smaller size")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(data)


def _made_up_fleet(stack: ExitStack) -> str:
    served = stack.enter_context(serving(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
    with served.database.writing() as session:
        rollout = busy_fleet(session, datetime.now(UTC).replace(hour=12, minute=40))
        return f"{served.url}/dashboard/rollouts/{rollout.id}"


if __name__ == "__main__":
    main()
