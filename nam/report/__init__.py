"""report.html of a run: figures, overlays, and the page."""

from nam.report.html import build_report

__all__ = ["build_report"]
