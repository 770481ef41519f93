"""Prints the table of faults at the end of the run."""

import pytest

from tests.faults import harness, test_faults


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if test_faults.results:
        terminalreporter.write_line(harness.table(test_faults.results))
