"""A comparison on disk: its report, and a run directory for each arm and seed."""

from __future__ import annotations

from typing import Any

from kdcli.runs.shared_directory import SharedDirectory, read_json_object

REPORT_FILE, TABLES_FILE = "compare.json", "compare.md"


class ComparisonDirectory(SharedDirectory):
    """The directory of a comparison."""

    content = "comparison"
    command = "compare"
    files = (REPORT_FILE, TABLES_FILE)

    report = property(lambda self: self.path / REPORT_FILE)
    tables = property(lambda self: self.path / TABLES_FILE)

    def earlier(self) -> dict[str, Any] | None:
        """Read the report in the directory; None if there is no valid one."""
        return read_json_object(self.report) or None
