"""Before anything is decoupled: measure a model, choose its cuts, and say which way of training pays."""

__all__: list[str] = []
