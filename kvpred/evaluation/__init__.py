"""How far a prediction, or the data behind it, can be trusted."""
