"""Where the browser of the tests is, and how it is started: without a sandbox, since tests may run as root in a container."""

from __future__ import annotations

from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--no-sandbox", "--disable-gpu")
