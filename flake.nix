{
  description = "metal-flash-sdpa: scaled dot product attention for Apple GPUs";

  # The builder decides compiler flags and torch versions: pinned, so that a build can be repeated.
  inputs.kernel-builder.url = "github:huggingface/kernels/8ac69fc542a4306eade0759ef7c45b4f2ae57df0";

  outputs =
    { self, kernel-builder }:
    kernel-builder.lib.genKernelFlakeOutputs {
      inherit self;
      path = ./.;
    };
}
