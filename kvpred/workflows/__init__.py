"""What strings the floors together: from files to a fitted and judged predictor."""
