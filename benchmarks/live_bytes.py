"""The peak memory of a traced function, counted without compiling it.

Assumes that operations run in traced order without fusion, so a compiler needs less: here every
elementwise operation has its own array. An array lives from the operation that creates it to the
last one that reads it; arguments are always live.
"""

from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from train.flops import inner_programs


def peak_bytes(jaxpr: Jaxpr) -> int:
    """The peak over a program's operations, including results but not arguments."""
    last_use = {}
    for i, equation in enumerate(jaxpr.eqns):
        last_use |= dict.fromkeys(_variables(equation.invars), i)
    last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    dies_after: dict[int, list[Any]] = {}
    peak = live = 0
    for i, equation in enumerate(jaxpr.eqns):
        made = [variable for variable in equation.outvars if variable in last_use]
        size = sum(map(_bytes, equation.outvars))
        peak = max(peak, live + max(size, _inner_peak(equation)))
        live += sum(map(_bytes, made))
        for variable in made:
            dies_after.setdefault(last_use[variable], []).append(variable)
        live -= sum(map(_bytes, dies_after.pop(i, [])))
    return peak


def _inner_peak(equation: JaxprEqn) -> int:
    """The peak inside an operation; a scan also holds its stacked results."""
    inner = max((peak_bytes(jaxpr) for jaxpr in inner_programs(equation.params)), default=0)
    if equation.primitive.name == "scan":
        inner += sum(map(_bytes, equation.outvars))
    return inner


def _variables(atoms: list[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _bytes(variable: Any) -> int:
    # PRNG keys have a dtype without a size; they are few.
    return variable.aval.size * getattr(variable.aval.dtype, "itemsize", 0)
