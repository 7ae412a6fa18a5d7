"""The models that predict a gradient. `contract` says what each must be; add one by adding a file."""

from synthgrad.core.synthesizers.choice import choice
from synthgrad.core.synthesizers.contract import Answer, Feedback, InputSynthesizer, Synthesizer
from synthgrad.core.synthesizers.convolutional import ConvSynthesizer
from synthgrad.core.synthesizers.critic import CriticSynthesizer
from synthgrad.core.synthesizers.feedback_alignment import FeedbackAlignmentSynthesizer, KickbackSynthesizer
from synthgrad.core.synthesizers.heads import block_head, conv_head, linear_head, mlp_head, usual_head, zero_head
from synthgrad.core.synthesizers.least_squares import LeastSquaresSynthesizer
from synthgrad.core.synthesizers.linear import LinearSynthesizer
from synthgrad.core.synthesizers.perceptron import MLPInputSynthesizer, MLPSynthesizer
from synthgrad.core.synthesizers.reference import OracleSynthesizer, ZeroSynthesizer
from synthgrad.core.synthesizers.similarity import SimilaritySynthesizer
from synthgrad.core.synthesizers.stale import StaleSynthesizer
from synthgrad.core.synthesizers.wrappers import Averaged, Clipped, Normalized, Replay

__all__ = [
    "Answer",
    "Averaged",
    "Clipped",
    "ConvSynthesizer",
    "CriticSynthesizer",
    "Feedback",
    "FeedbackAlignmentSynthesizer",
    "InputSynthesizer",
    "KickbackSynthesizer",
    "LeastSquaresSynthesizer",
    "LinearSynthesizer",
    "MLPInputSynthesizer",
    "MLPSynthesizer",
    "Normalized",
    "OracleSynthesizer",
    "Replay",
    "SimilaritySynthesizer",
    "StaleSynthesizer",
    "Synthesizer",
    "ZeroSynthesizer",
    "block_head",
    "choice",
    "conv_head",
    "linear_head",
    "mlp_head",
    "usual_head",
    "zero_head",
]
