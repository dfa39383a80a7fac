"""The control experiment: Decision Transformers in environments, under every policy."""
