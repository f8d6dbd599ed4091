"""`python -m millirec`."""

from millirec.cli.main import main

main()
