"""Pre-training: the model, the recipe, its hooks and where it starts from."""
