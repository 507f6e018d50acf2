"""One page of evaluations, training logs and run folders."""
