"""``python -m greenml``."""

from greenml.cli import main

main()
