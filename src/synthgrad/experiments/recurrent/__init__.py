"""Comparisons in time: recurrent nets that learn by windows, with and without a synthetic gradient at a window's end.

A sibling of the comparisons in depth: settings, methods, tables and results are their own, since here steps are
counted instead of epochs, and what is solved instead of errors. Folders, events, provenance and the look of the page
are shared.
`tasks`, `methods`, `spec`, `results` and `tables` do without torch.
"""

__all__: list[str] = []
