"""Darknet's own formats: the network description (cfg), the weights, and what is made of them."""
