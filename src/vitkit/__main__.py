"""Runs the `vitkit` command as `python -m vitkit`, the form that torchrun needs."""

import sys

from vitkit.cli import main

sys.exit(main())
