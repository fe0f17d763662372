"""Compute kernels, one folder per operation.

Each folder holds the public function (`__init__.py`), its definition in torch (`reference.py`), a plain C implementation
(`<name>.c`) and the shapes, dtypes and options that the tests go through (`cases.py`). The reference serves wherever the
C library is not there, so every operation gives the same result, to rounding, on any machine.
"""
