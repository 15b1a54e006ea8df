"""`python -m runner_builders` is the builder's command."""

from runner_builders.cli import main

main()
