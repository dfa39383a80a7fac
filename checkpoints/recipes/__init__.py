"""One script per shipped checkpoint: `python checkpoints/recipes/NAME.py` makes it again."""
