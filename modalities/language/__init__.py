"""How language models are fed and read: prompts, chunks, recall, kinds of token."""
