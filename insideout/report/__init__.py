"""The HTML report over one output folder: one page, no requests, no scripts."""

from insideout.report.page import write_report

__all__ = ["write_report"]
