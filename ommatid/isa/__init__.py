"""The hardware's contract: targets, the instruction set, programs, the verifier and the cost formulas."""


def release() -> str:
    """The installed version of ommatid."""
    from importlib.metadata import version

    return version("ommatid")
