"""Language models that captioners speak with, and the training of small ones."""
