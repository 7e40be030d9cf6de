"""`python -m kallglot_ari` is `kallglot-ari`."""

import sys

from kallglot_ari.cli import main

sys.exit(main())
