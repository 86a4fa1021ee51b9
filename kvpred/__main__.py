"""Run the command line as ``python -m kvpred``."""

from kvpred.cli import main

main()
