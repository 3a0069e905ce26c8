"""The classifier: tokens, Vision Transformer, evaluation, a trained model to use."""
