"""What every tool shares: the command line, its errors in one line, the launch of processes."""
