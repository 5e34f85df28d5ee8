"""``python -m onnxprune``, and the installed command.

The command line is imported inside, so that an interruption meanwhile ends in one line, too.
"""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from onnxprune.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("onnxprune: error: interrupted; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
