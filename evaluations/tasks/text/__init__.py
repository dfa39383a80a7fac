"""Text benchmarks: one short file each, all of the form that `base.py` gives."""
