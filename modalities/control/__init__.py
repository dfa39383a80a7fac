"""How Decision Transformers are fed and read: weights, facts, rollouts, simulators."""
