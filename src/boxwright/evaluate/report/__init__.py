"""The report: everything an engine's evidence says, in one HTML file."""
