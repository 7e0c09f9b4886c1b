"""How a benchmark ends that can't go on: with a sentence, as the command line does, and without a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable


def run_as_command(main: Callable[[], None]) -> None:
    """Call ``main`` and exit: 0 done, 1 failed, 2 wrong usage."""
    from edge_imdb.errors import EdgeImdbError

    try:
        main()
    except EdgeImdbError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:
        # Without stderr, the process has said why on ours.
        if error.stderr:
            print(error.stderr.rstrip(), file=sys.stderr)
        sys.exit(error.returncode if error.returncode > 0 else 1)
