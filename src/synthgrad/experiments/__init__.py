"""Comparisons of methods: what is run, how it is measured, what is kept of it.

`spec`, `toml`, `results`, `tables` and `folder` do without torch, so that a command line can be read and a table drawn
before it is there; only `runner` trains.
"""

__all__: list[str] = []
