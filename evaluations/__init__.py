"""What a memory policy is judged on, and how the judging is run."""
