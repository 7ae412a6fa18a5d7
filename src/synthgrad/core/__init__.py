"""Floor 0: the method. It knows no process, no file and no data set."""

__all__: list[str] = []
