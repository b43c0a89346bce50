"""``python -m marlcomm.cli``."""

from marlcomm.cli import main

main()
