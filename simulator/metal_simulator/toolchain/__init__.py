"""clang, its flags, the cache of what it compiled, and where the simulator's own files lie."""
