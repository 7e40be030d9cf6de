"""`kallglot-ari`, and `python -m kallglot_ari`."""

import signal
import sys

from kallglot_ari import standard


def main() -> int:
    """The command line's exit status. The standard streams come before all imports: a library may open a file for good (libffi does)."""
    standard.prepare()
    # Ctrl-C while the libraries load ends us without their half-way traces; what began as ignored (nohup, a shell's &) stays so.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kallglot_ari import cli

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
