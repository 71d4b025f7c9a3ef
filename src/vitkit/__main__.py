"""Runs the command `vitkit` as `python -m vitkit`, as torchrun does."""

import sys

from vitkit.cli import main

sys.exit(main())
