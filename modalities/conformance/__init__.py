"""The contract between a model and a memory, examined clause by clause: `python -m modalities.conformance MODEL`."""
