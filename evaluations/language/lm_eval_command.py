"""lm-evaluation-harness's own command with the model `namm` in it: `namm-lm-eval --model namm --tasks ...`.

Every option is lm_eval's. Releases of lm_eval that discover models by entry points find `namm` without this command.
"""

from __future__ import annotations

import sys

from evaluations.commands.exit import exit_code
from namm.errors import MissingExtraError


def main() -> int:
    """Registers the model and runs lm_eval's command line; returns the exit code: 0, or 2 for a wrong input."""
    return exit_code(_run, "lm_eval writes its results at the end; --use_cache keeps answers for the next time.")


def _run() -> None:
    import modalities  # noqa: F401  (first: it makes transformers importable beside a CPU-only torch)

    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        raise MissingExtraError(
            f"namm-lm-eval needs lm-evaluation-harness ({error}); install it: pip install 'namm-suite[lm-eval]'"
        ) from error
    import evaluations.language.lm_eval_model  # noqa: F401  (registers the model)

    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
