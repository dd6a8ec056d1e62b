"""From weights to a proven engine in one go; see :func:`boxwright.ship.pipeline.ship`."""
