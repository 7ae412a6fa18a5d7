from synthgrad.experiments.provenance import hardware, versions


def test_everything_that_computes_is_named() -> None:
    assert set(versions()) == {"python", "torch", "numpy", "synthgrad"}
    assert all(value != "unknown" for value in versions().values())


def test_the_hardware_is_named() -> None:
    found = hardware(threads=2)
    assert found["threads"] == 2
    assert isinstance(found["cores"], int) and found["cores"] >= 1
    assert found["cpu"]
