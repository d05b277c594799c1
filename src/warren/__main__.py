"""``python -m warren``: the command line, also where no entry point is installed."""

from warren.cli import main

main()
