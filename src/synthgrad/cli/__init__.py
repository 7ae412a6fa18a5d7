"""The front desk: the `synthgrad` command. Nothing here imports torch before it is needed."""

__all__: list[str] = []
