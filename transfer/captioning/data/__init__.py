"""What captioners are trained and tested on; importing registers it."""
