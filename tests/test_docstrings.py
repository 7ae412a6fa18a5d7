"""The public API is documented: parameters, shapes, errors, references; read from the source, nothing is run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import synthgrad

SOURCE = Path(synthgrad.__file__).parents[1]
Function = ast.FunctionDef
# A tensor's shape, said somewhere in the docstring: (B, ...), "a scalar", "of the activation's shape", "as `forward`".
SHAPE = re.compile(r"\([A-Z]\w*,|\bscalar\b|\bshape")
ELSEWHERE = re.compile(r"\b[Aa]s (in |for )?`|^As the synthesizer inside", re.MULTILINE)  # it says so there
REFERENCE = re.compile(r"arXiv:\d{4}\.\d{5}|doi:10\.")
# Not from the literature: what passes gradients on, asks a function, answers nothing, or reads what one has written.
OURS = {"Clipped", "Normalized", "OracleSynthesizer", "ZeroSynthesizer", "backprop", "from_text"}
OURS |= {"teach_every", "true_every", "warm_up"}
# What tells a caller nothing that he could act on.
OF_PYTHON = {"AssertionError", "AttributeError", "NotImplementedError", "StopIteration"}


def faults(tree: ast.Module, name: str) -> list[str]:
    """What the docstrings of a public function or class, defined in this module, leave out."""
    node = next(node for node in tree.body if isinstance(node, Function | ast.ClassDef) and node.name == name)
    own = ast.get_docstring(node) or ""
    found = [f"{name}: is not documented"] if len(own.split()) < 4 else []
    if _cites(node) and name not in OURS and not REFERENCE.search(own):
        found.append(f"{name}: no reference")
    if isinstance(node, Function):
        return found + [f"{name}: {what}" for what in _missing(tree, node, own, parameters=True)]
    if any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        fields = [
            one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        ]
        found += [f"{name}: field {field}" for field in fields if field[0] != "_" and not _says(own, field)]
    for method in (one for one in node.body if isinstance(one, Function)):
        if method.name == "__init__":  # an error, and what a function of ours makes, nobody else has to make
            parameters = not name.endswith("Error") and "made by `" not in own
            found += [f"{name}: {what}" for what in _missing(tree, method, own, parameters=parameters)]
        elif not method.name.startswith("_"):
            text = ast.get_docstring(method) or ""
            if len(text.split()) < 2:
                found.append(f"{name}.{method.name}: is not documented")
            found += [f"{name}.{method.name}: {what}" for what in _missing(tree, method, text, besides=own)]
    return found


def _missing(
    tree: ast.Module, function: Function, text: str, *, besides: str = "", parameters: bool = False
) -> Iterator[str]:
    if "Args:" not in text and ELSEWHERE.search(text):
        return
    text = f"{text}\n{besides}"
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    named = [one for one in named if one.arg not in ("self", "cls")]
    if parameters:
        listed = r"^ *\**{}:" if "Args:" in text else r"\b{}\b"
        missing = (one.arg for one in named if not re.search(listed.format(one.arg), text, re.MULTILINE))
        yield from (f"parameter {one}" for one in missing)
    if any(map(_holds_tensors, [*(one.annotation for one in named), function.returns])) and not SHAPE.search(text):
        yield "no shape"
    yield from (f"error {error}" for error in sorted(_raised(tree, function, set())) if not _says(text, error))


def _holds_tensors(annotation: ast.expr | None) -> bool:
    """Whether a value of that type is a tensor, or holds some; a function of tensors is and does not."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Callable":
        return False
    if isinstance(annotation, ast.Name):
        return annotation.id == "Tensor"
    return annotation is not None and any(map(_holds_tensors, ast.iter_child_nodes(annotation)))  # type: ignore[arg-type]


def _says(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def _raised(tree: ast.Module, function: Function, seen: set[str]) -> set[str]:
    """The errors raised here by name, and in the functions of the same module that are called."""
    seen.add(function.name)
    functions = {one.name: one for one in tree.body if isinstance(one, Function)}
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(kind, ast.Name) and kind.id.endswith("Error"):
                found.add(kind.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = functions.get(node.func.id)
            if called is not None and called.name not in seen:
                found |= _raised(tree, called, seen)
    return found - OF_PYTHON


def _cites(node: Function | ast.ClassDef) -> bool:
    """Whether it is a method of the literature: a synthesizer, a schedule."""
    if isinstance(node, Function):
        return node.returns is not None and ast.unparse(node.returns) in ("Schedule", '"Schedule"', "'Schedule'")
    return any(ast.unparse(base) in ("Synthesizer", "InputSynthesizer", "Wrapper") for base in node.bases)


# ---- the public names ------------------------------------------------------------------------------------------------


def parsed(module: str) -> ast.Module:
    path = SOURCE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def home(module: str, name: str) -> tuple[str, str]:
    """The module in which a name is defined, as packages hand names on."""
    for node in parsed(module).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return home(node.module or "", name)
    return module, name


def public() -> list[tuple[str, str]]:
    tree = ast.parse((SOURCE / "synthgrad" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "synthgrad"]
    names = [(node.module or "", alias.name) for node in imports for alias in node.names]
    return [*names, ("synthgrad.testing", "check_synthesizer"), *ADAPTERS]


ADAPTERS = [
    ("synthgrad.integrations.accelerate", "AcceleratedNet"),
    ("synthgrad.integrations.lightning", "DecoupledModule"),
    ("synthgrad.integrations.skorch", "DecoupledClassifier"),
]


@pytest.mark.parametrize(("module", "name"), public(), ids=lambda one: one.rpartition(".")[2])
def test_a_public_name_says_its_parameters_shapes_errors_and_source(module: str, name: str) -> None:
    where, name = home(module, name)
    assert faults(parsed(where), name) == []


# ---- the test itself -------------------------------------------------------------------------------------------------

WHOLE = '''
def halved(x: Tensor, *, times: int) -> Tensor:
    """Half of x, so many times.

    Args:
        x: (B, D).
        times: how often.

    Raises:
        ValueError: times is below 1.
    """
    _expect(times)
    return x / 2**times


def _expect(times: int) -> None:
    if times < 1:
        raise ValueError(f"times={times}")


class Small(Synthesizer):
    """Answers with something small. arXiv:1608.05343.

    Args:
        size: of it.
    """

    def __init__(self, size: float) -> None:
        self.size = size

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape."""


@dataclass
class Pair:
    """Two that belong together.

    Attributes:
        left: the one.
    """

    left: int
'''
SPOILED: dict[str, tuple[str, str, list[str]]] = {
    "nothing": ("", "", []),
    "bare": (
        WHOLE[WHOLE.index('"""Half') : WHOLE.index("    _expect(")],
        '"""Halves."""\n',
        [
            f"halved: {w}"
            for w in ("is not documented", "parameter x", "parameter times", "no shape", "error ValueError")
        ],
    ),
    "parameter": ("        times: how often.\n", "", ["halved: parameter times"]),
    "shape": ("(B, D)", "the values", ["halved: no shape"]),
    "error": ("ValueError: times", "or else: times", ["halved: error ValueError"]),
    "reference": (" arXiv:1608.05343.", "", ["Small: no reference"]),
    "constructor": ("        size: of it.\n", "", ["Small: parameter size"]),
    "method": (
        "The synthetic gradient, of the activation's shape.",
        "Answers.",
        ["Small.forward: is not documented", "Small.forward: no shape"],
    ),
    "field": ("        left: the one.\n", "", ["Pair: field left"]),
}


@pytest.mark.parametrize("name", list(SPOILED))
def test_what_is_left_out_is_found(name: str) -> None:
    old, new, expected = SPOILED[name]
    assert old in WHOLE
    tree = ast.parse(WHOLE.replace(old, new, 1))
    assert [fault for one in ("halved", "Small", "Pair") for fault in faults(tree, one)] == expected
