"""Text, video and control tasks that a memory policy is judged on."""
