<<<<<<< HEAD
"""INT8: calibration, where Q/DQ pairs go and why, and the accuracy budget."""
=======
"""Eight-bit models: what activations range over, and where they are quantised."""
>>>>>>> calib
