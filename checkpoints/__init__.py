"""Weights that ship with the project, each beside its card; `recipes` holds the scripts that made them."""
