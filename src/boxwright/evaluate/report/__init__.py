"""The report: everything an engine's evidence says, in one HTML file."""

from boxwright.evaluate.parity_report import (  # noqa: F401 - old place, until all callers moved
    BoxParity,
    ParityReport,
    Reason,
    TensorParity,
    UnmatchedBox,
)
