"""How a command starts and ends: exit codes, ranks, devices, progress."""
