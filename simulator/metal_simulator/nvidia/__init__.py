"""Metal kernels on NVIDIA GPUs: a second back end, behind the same front end and the same names of builtins.

    program = compile.build(library, "kernel_name", {"constant": True}, threads=128, matrix="exact")

A SIMD group is a warp, threadgroup memory is shared memory. `build` (compile.py) needs clang and ptxas but no GPU;
`Archive` (archive.py) keeps what was built in one file, and `LoadedProgram` (driver.py) launches it where there is a
GPU, needing neither.
"""
