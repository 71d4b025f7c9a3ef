"""`python -m vitkit` is the command `vitkit`; torchrun starts it so."""

import sys

from vitkit.cli import main

sys.exit(main())
