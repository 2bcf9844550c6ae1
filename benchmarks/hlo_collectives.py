"""Counts the collectives in a compiled program's text."""

import math
import re
from typing import Any

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute"
# `name = shape kind(`, where the shape may be a tuple; only the start of an asynchronous pair.
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?(\S+) = (.*?) ({_KINDS})(-start)?\(")
# The shape of a start other than all-reduce's: (operands, results, ...).
_START = re.compile(r"^\((\(.*?\)|\S+), (\(.*?\)|\S+?)(?:, .*)?\)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?(%\S+) ")
_CALL = re.compile(r"\b(?:body|calls)=(%[^\s,]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# libtpu names no trip count: its loops count from zero up to a constant.
_CONDITION = re.compile(r"\bcondition=(%[^\s,]+)")
_CONSTANT = re.compile(r"^\s*(%\S+) = s32\[\]\S* constant\((\d+)\)")
_LIMIT = re.compile(r"^\s*ROOT \S+ = pred\[\]\S* compare\(%\S+, (%[^\s)]+)\), direction=LT")
# Parts of one collective that libtpu distributes over fusions to overlap with their arithmetic.
_CHAIN = re.compile(r'chain_id="(\d+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))(?:e\w+)?\[([\d,]*)\]")


def collectives(program: str) -> dict[str, dict[str, Any]]:
    """For each kind: count, bytes of results on one device, and how many overlap with arithmetic.

    A collective in a loop counts once per iteration, if their number is known. TPU fusions of an
    all-reduce with a scatter count as reduce-scatters, with their bytes before the scatter; plain
    reduce-scatters, with those after it.
    """
    found: dict[str, tuple[str, int, bool, str]] = {}
    # For each loop body and fusion: the computation that it is in, and the number of iterations.
    callers: dict[str, tuple[str, int]] = {}
    # Limits of loops, by their conditions, which come before them.
    constants: dict[str, int] = {}
    limits: dict[str, int] = {}
    inside = ""
    for line in program.splitlines():
        if computation := _COMPUTATION.match(line):
            inside = computation[1]
        if constant := _CONSTANT.match(line):
            constants[constant[1]] = int(constant[2])
        if (limit := _LIMIT.match(line)) and limit[1] in constants:
            limits[inside] = constants[limit[1]]
        if call := _CALL.search(line):
            turns, condition = _TURNS.search(line), _CONDITION.search(line)
            counted = limits.get(condition[1], 1) if condition else 1
            callers[call[1]] = inside, int(turns[1]) if turns else counted
        if not (instruction := _INSTRUCTION.match(line)):
            continue
        name, shape, kind, start = instruction.groups()
        if start and (parts := _START.match(shape)) and kind != "all-reduce":
            shape = parts[2]
        if "all-reduce-scatter" in inside:
            kind = "reduce-scatter"
        chain = _CHAIN.search(line)
        found[chain[0] if chain else name] = (
            kind,
            array_bytes(shape),
            chain is not None,
            inside,
        )
    totals: dict[str, dict[str, Any]] = {}
    for kind, size, overlapped, inside in found.values():
        times = 1
        while inside in callers:
            inside, often = callers[inside]
            times *= often
        total = totals.setdefault(kind, {"count": 0, "bytes": 0, "overlapped": 0})
        total["count"] += times
        total["bytes"] += times * size
        total["overlapped"] += times * overlapped
    return totals


def array_bytes(shape: str) -> int:
    """Bytes of the arrays of a shape, such as "(bf16[2,3]{1,0}, f32[])"."""
    total = 0
    for kind, bits, sizes in _ARRAY.findall(shape):
        width = 1 if kind == "pred" else max(int(bits) // 8, 1)
        total += width * math.prod(int(size) for size in sizes.split(",") if size)
    return total
