"""Weights & Biases and the local dashboard, both mirrors of rows."""
