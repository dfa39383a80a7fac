"""What follows from rows: estimates with intervals, comparisons, curves, survival, and what may be said of them."""
