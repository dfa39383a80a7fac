"""The contract between a model and a memory, examined clause by clause: `namm-check MODEL`."""
