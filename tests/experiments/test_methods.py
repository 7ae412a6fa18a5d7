import pytest

from synthgrad.core.errors import ShapeError
from synthgrad.core.synthesizers import (
    ConvSynthesizer,
    CriticSynthesizer,
    FeedbackAlignmentSynthesizer,
    LeastSquaresSynthesizer,
    LinearSynthesizer,
    MLPInputSynthesizer,
    SimilaritySynthesizer,
    StaleSynthesizer,
    ZeroSynthesizer,
)
from synthgrad.experiments.methods import METHODS, factory, method_named

SETTINGS = {"classes": 7, "outputs": 7, "rank": 3, "examples": 11}


@pytest.mark.parametrize(
    ("method", "row", "image"),
    [
        ("zero", ZeroSynthesizer, ZeroSynthesizer),
        ("dni", LinearSynthesizer, ConvSynthesizer),
        ("cdni", LinearSynthesizer, ConvSynthesizer),
        ("unlock", CriticSynthesizer, CriticSynthesizer),
        ("local-block", CriticSynthesizer, CriticSynthesizer),
        ("critic-block", CriticSynthesizer, CriticSynthesizer),
        ("predsim", SimilaritySynthesizer, SimilaritySynthesizer),
        ("dfa", FeedbackAlignmentSynthesizer, FeedbackAlignmentSynthesizer),
        ("stale", StaleSynthesizer, StaleSynthesizer),
    ],
)
def test_the_activation_chooses_the_synthesizer(method: str, row: type, image: type) -> None:
    build = factory(method_named(method).synthesizer, **SETTINGS)
    assert build is not None
    assert type(build((12,))) is row
    assert type(build((4, 3, 3))) is image


def test_synthesizers_take_the_classes_and_the_rank() -> None:
    labeled, unlabeled = (factory(METHODS[name].synthesizer, **SETTINGS) for name in ("cdni", "dni"))
    assert labeled is not None and unlabeled is not None
    assert labeled((12,)).classes == labeled((4, 3, 3)).classes == 7
    assert unlabeled((12,)).classes is None
    assert tuple(labeled((12,)).down.weight.shape) == (3, 12)


def test_what_is_solved_for_is_for_rows_and_tokens_alone() -> None:
    exact, belief = (factory(METHODS[name].synthesizer, **SETTINGS) for name in ("cdni-exact", "cdni-belief"))
    assert exact is not None and belief is not None
    for shape in ((12,), (5, 12)):
        assert isinstance(exact(shape), LeastSquaresSynthesizer) and exact(shape).classes == 7
        assert exact(shape).head is None and belief(shape).head is not None
    with pytest.raises(ShapeError, match=r"of 3 dimensions: this method has synthesizers for 1 or 2"):
        exact((4, 3, 3))


def test_input_synthesizers_take_any_shape() -> None:
    build = factory(METHODS["unlock"].input_synthesizer, **SETTINGS)
    assert build is not None
    assert isinstance(build((1, 8, 8), (4, 3, 3)), MLPInputSynthesizer)
    assert isinstance(build((64,), (12,)), MLPInputSynthesizer)


def test_back_propagation_has_no_synthesizer() -> None:
    assert factory(METHODS["bp"].synthesizer, **SETTINGS) is None


def test_an_activation_that_no_synthesizer_is_for_is_named() -> None:
    build = factory(METHODS["cdni"].synthesizer, **SETTINGS)
    assert build is not None
    with pytest.raises(ShapeError, match=r"\(2, 5, 6, 12\), of 4 dimensions"):
        build((2, 5, 6, 12))
