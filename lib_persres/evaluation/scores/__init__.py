"""The scores of an evaluation, each from pictures or their embeddings to numbers."""
