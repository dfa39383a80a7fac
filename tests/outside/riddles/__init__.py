"""An outside package that brings a modality: a lookup machine that is asked riddles. CONTRIBUTING.md follows it."""
