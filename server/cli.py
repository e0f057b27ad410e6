"""The program ``deltafleet``."""

from __future__ import annotations

from model_registry.cli import app, main

__all__ = ["app", "main"]
