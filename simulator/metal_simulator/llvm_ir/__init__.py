"""Reading LLVM's textual IR, and where its addresses come from."""
