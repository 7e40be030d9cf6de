"""`kallglot-ari`, and `python -m kallglot_ari`."""

import sys

from kallglot_ari import standard


def main() -> int:
    """The command line's exit status. The standard streams come before all imports: a library may open a file for good (libffi does)."""
    standard.prepare()
    from kallglot_ari import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
