"""`python -m modalities.conformance MODEL`: the same as `namm-check MODEL`."""

import sys

from modalities.conformance.command import main

sys.exit(main())
