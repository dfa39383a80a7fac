"""What is played: environments, offline data in D4RL's and Minari's layout, and how scores compare."""
