"""INT8: calibration, where Q/DQ pairs go and why, and the accuracy budget."""
