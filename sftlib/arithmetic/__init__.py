"""Which arithmetic a network is computed in: the fastest precision, and whether compiling pays, both measured here."""

from sftlib.arithmetic.compiling import CompileTimes, compile_pays
from sftlib.arithmetic.precision import measure_precision

__all__ = ["CompileTimes", "compile_pays", "measure_precision"]
