"""What the command `mask-frozen-detr` imports first: beside the package, for Ctrl-C while the package is imported."""

import sys


def main() -> int:
    """The command line's `main`. Returns 130, after a line, for a Ctrl-C before it has begun."""
    try:
        from mask_frozen_detr.cli import main as run
    except KeyboardInterrupt:
        print("mask-frozen-detr: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
