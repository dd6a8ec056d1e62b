"""Boxwright takes a trained object detector and turns it into a proven engine."""
