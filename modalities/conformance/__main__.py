"""`python -m modalities.conformance MODEL`: examines a model by the contract."""

from modalities.conformance.examine import main

main()
