"""`python -m runner_supervisor` is the `runner-supervisor` command."""

from runner_supervisor.cli import main

main()
