"""From an mm config and a command line to a run."""
