"""Runs the `vitkit` command as `python -m vitkit`, which is how torchrun starts it."""

import sys

from vitkit.cli import main

sys.exit(main())
