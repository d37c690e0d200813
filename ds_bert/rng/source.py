"""Random draws in compiled code for either kind of generator, told by its state.

A uint32 array is the state of `ds_bert.rng.mersenne_twister`, a uint64 array a stream of
`ds_bert.rng.streams`. The choice is made when the caller is compiled.
"""

from numba import types
from numba.extending import overload

from ds_bert.rng import mersenne_twister
from ds_bert.rng.streams import next_below, next_uniform


def random(state):
    """Next float64 in [0, 1)."""
    raise NotImplementedError("for compiled code only")


def randbelow(state, bound):
    """Next integer in [0, bound)."""
    raise NotImplementedError("for compiled code only")


@overload(random)
def _random(state):
    if state.dtype == types.uint32:
        return lambda state: mersenne_twister.random(state)
    return lambda state: next_uniform(state)


@overload(randbelow)
def _randbelow(state, bound):
    if state.dtype == types.uint32:
        return lambda state, bound: mersenne_twister.randbelow(state, bound)
    return lambda state, bound: next_below(state, bound)
