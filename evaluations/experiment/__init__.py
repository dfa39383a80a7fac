"""How any experiment is run: units, plans, equal memory, claims, workers."""
