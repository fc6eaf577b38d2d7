// Switching between fibres: the callee-saved registers go on the old stack and come from the new one.
#pragma once
#if defined(__x86_64__)
// The indirect jump (rather than a return) lets the branch predictor learn where all lanes of a collective resume.
__asm__(
    ".text\n.p2align 4\n.type metal_switch,@function\nmetal_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  popq %rcx\n  jmpq *%rcx\n.size metal_switch, .-metal_switch\n");

// A stack that enters `start` when first switched to.
static inline void* new_stack(char* top, void (*start)(void)) {
  void** words = (void**)((uintptr_t)top & ~(uintptr_t)63);
  *--words = 0;  // the return address that `start` sees; keeps the call alignment of the ABI
  *--words = (void*)start;
  for (int i = 0; i < 6; i++) *--words = 0;
  return words;
}
#elif defined(__aarch64__)
__asm__(
    ".text\n.p2align 4\n.type metal_switch,@function\nmetal_switch:\n"
    "  sub sp, sp, #160\n"
    "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n"
    "  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
    "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n  ldp x25, x26, [sp, #48]\n"
    "  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  add sp, sp, #160\n  ret\n.size metal_switch, .-metal_switch\n");

static inline void* new_stack(char* top, void (*start)(void)) {
  void** words = (void**)((uintptr_t)top & ~(uintptr_t)63) - 20;
  for (int i = 0; i < 20; i++) words[i] = 0;
  words[11] = (void*)start;  // x30
  return words;
}
#else
#error "the runtime knows x86-64 and aarch64"
#endif

void metal_switch(void** save, void* resume);
