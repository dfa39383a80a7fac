"""Hindsight: a NAMM's numbers trained by gradient to foresee what will have mattered, as a start for evolution."""
