"""Evidence: how far a model is from its source, and how good and fast it is."""
