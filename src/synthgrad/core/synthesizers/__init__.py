"""The models that predict a gradient. `contract` says what each must be; add one by adding a file."""

from synthgrad.core.synthesizers.contract import Answer, Feedback, InputSynthesizer, Synthesizer
from synthgrad.core.synthesizers.convolutional import ConvSynthesizer
from synthgrad.core.synthesizers.critic import CriticSynthesizer
from synthgrad.core.synthesizers.heads import linear_head
from synthgrad.core.synthesizers.linear import LinearSynthesizer
from synthgrad.core.synthesizers.perceptron import MLPInputSynthesizer, MLPSynthesizer
from synthgrad.core.synthesizers.reference import OracleSynthesizer, ZeroSynthesizer

__all__ = [
    "Answer",
    "ConvSynthesizer",
    "CriticSynthesizer",
    "Feedback",
    "InputSynthesizer",
    "LinearSynthesizer",
    "MLPInputSynthesizer",
    "MLPSynthesizer",
    "OracleSynthesizer",
    "Synthesizer",
    "ZeroSynthesizer",
    "linear_head",
]
