"""Sets on their way to the model: chosen, ordered, loaded, augmented, mixed."""
