// In place of the header that the kernel builder generates: the bytes of the Metal library, and how to make it from them.
#pragma once
#import <Metal/Metal.h>

namespace EMBEDDED_METALLIB_NAMESPACE {

inline id<MTLLibrary> createLibrary(id<MTLDevice> device, NSError** error = nullptr) {
  return [device newLibraryWithData:dispatch_data_create("", 0, dispatch_get_main_queue(),
                                                         ^{
                                                         })
                              error:error];
}

}  // namespace EMBEDDED_METALLIB_NAMESPACE
