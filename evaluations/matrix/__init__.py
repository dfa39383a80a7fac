"""The transfer matrix: many NAMMs and rivals on targets of every modality, in one experiment."""
