"""Cells for tests of the time model; benchmarks/ has to be on the path when they are called."""

NETWORK = 360e9


def make_cell(model, length, kind, num_tokens=65_536, **changes):
    from time_model.step import Cell, sample

    sequences = round(num_tokens / sample(kind, length).mean())
    return Cell(model, length, kind, sequences)._replace(**changes)


def predict(cell, attempt="expected", engine="before", ceilings=None, network=NETWORK):
    from time_model.engine import ENGINES
    from time_model.gpus import assumed
    from time_model.step import predict

    return predict(cell, ceilings or assumed("H200", attempt), ENGINES[engine], network)
