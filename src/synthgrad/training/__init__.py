"""A small training loop for those who have none, and where it writes down what happens."""

__all__: list[str] = []
