"""``python -m ommatid``."""

from ommatid.cli.main import main

main()
