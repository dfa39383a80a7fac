"""Evolution: CMA-ES behind ask/tell, and the generation loop that survives being killed."""
