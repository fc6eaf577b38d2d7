// torch's headers name it.
#pragma once
@class MPSCommandBuffer;
