"""The paper's tables, measured again: what is trained for each, where its figures are kept, and how they compare.

`suite`, `images`, `sequences`, `paper`, `store`, `claims` and `tables` do without torch; only `runner` trains.
"""

__all__: list[str] = []
