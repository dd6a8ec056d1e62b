"""Eight-bit models: what activations range over, and where they are quantised."""
