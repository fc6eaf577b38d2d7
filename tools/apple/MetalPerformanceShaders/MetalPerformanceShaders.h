// torch's headers name it.
#pragma once
#import <Metal/Metal.h>

@interface MPSCommandBuffer : NSObject
@property(readonly) id<MTLCommandBuffer> rootCommandBuffer;
@end
