"""The captioner and its trained parts; importing registers it."""
