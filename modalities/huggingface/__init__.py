"""Any Hugging Face decoder: its attention and cache are lent to a memory for the length of a `with` block."""
