"""INT8: calibration, placement of Q/DQ pairs, and the accuracy budget."""
