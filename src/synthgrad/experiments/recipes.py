"""What a method is made of, as data: its schedule, its synthesizers and their options, whatever it is called.

Two results are of the same cell only if their methods had the same recipe: so a method whose options have changed is
trained again, and its older results are not taken for it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

__all__ = ["recipe_of"]

# What a method is called tells nothing of what it does; what is trained on what is kept beside the recipe.
NOT_OF_A_RECIPE = ("name", "title", "training")


def recipe_of(method: Any) -> dict[str, Any]:
    """What a method is made of, as JSON has it.

    What a field has by default is left out: so that a field thought of later makes no other recipe of those before it.
    What the code behind a class does, and which options it takes by default, is told by the version of the package.

    Args:
        method: a `methods.Method`, or a `recurrent.spec.Method`.

    >>> from synthgrad.experiments.methods import METHODS
    >>> recipe_of(METHODS["dfa"])["synthesizer"]["1"]
    {'kind': 'FeedbackAlignmentSynthesizer', 'takes': ['outputs']}
    """
    return dict(_said(method))


def _said(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        own = {one.name: (getattr(value, one.name), _default(one)) for one in fields(value)}
        return {name: _said(now) for name, (now, usual) in own.items() if _differs(name, now, usual)}
    if callable(value):  # a builder of schedules, which says with which options it builds them
        return value().name
    if isinstance(value, Mapping):
        return {str(key): _said(inside) for key, inside in value.items()}
    if isinstance(value, tuple | list):
        return [_said(inside) for inside in value]
    return value


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _differs(name: str, now: Any, usual: Any) -> bool:
    return name not in NOT_OF_A_RECIPE and (usual is MISSING or now != usual)
