"""Floor 1: what executes a plan."""

__all__: list[str] = []
