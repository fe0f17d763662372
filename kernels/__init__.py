"""Compute kernels, one folder per operation.

Each folder holds the public function (`__init__.py`), its definition in torch (`reference.py`), a plain C implementation
(`<name>.c`), one in Triton (`triton.py` or `triton/`), and the shapes, dtypes and options that the tests go through
(`cases.py`). CUDA tensors go to Triton, whose modules are imported then and not before; CPU tensors go to C. The reference
serves wherever there is no other, so every operation gives the same result, to rounding, on any machine.
"""
