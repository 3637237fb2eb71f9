"""Where a step keeps the rows that broke a gate."""

from pathlib import Path


def quarantine_of(report: Path) -> Path:
    """Return the folder beside a gate's report for the rows that broke a gate."""
    return report.with_name(f"{report.name}-rows")
