"""How a NAMM is evolved: stages, sources, fitness, searches, and how a run is watched."""
