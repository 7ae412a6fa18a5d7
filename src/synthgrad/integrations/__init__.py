"""Other people's training loops. Each module here needs its own package, and is imported by whoever has it."""

__all__: list[str] = []
