// Stand-ins for what the launcher calls: an Objective-C runtime, Metal's objects and torch's stream. Nothing computes;
// every call of an encoder is recorded, every retain and release counted. It lets launch.mm run on Linux, compiled for
// GCC's Objective-C ABI, whose messages are plain function calls.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <ATen/core/Tensor.h>
#include <ATen/mps/MPSDevice.h>
#include <ATen/mps/MPSStream.h>
#include <torch/library.h>

#include <chrono>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

namespace {

// Any object. Its retain count is what Metal's would be; nothing is freed, so that tests can ask afterwards.
struct Object {
  explicit Object(std::string kind, std::string text = "") : kind(std::move(kind)), text(std::move(text)) {}
  std::string kind, text;
  int64_t count = 1;
  std::map<std::string, bool> constants;  // of constant values and of functions
  std::string name() const {
    std::string result = text;
    for (const auto& [constant, value] : constants) result += (value ? " +" : " -") + constant;
    return result;
  }
};

std::vector<Object*> objects;
thread_local std::vector<std::vector<Object*>> pools;
std::vector<std::string> calls;
std::map<std::string, std::string> settings;  // what fails how, limits, and "slow" for slow pipelines
std::mutex objects_mutex, queue_mutex;
thread_local bool is_on_queue = false;

Object* make(std::string kind, std::string text = "") {
  const std::lock_guard<std::mutex> lock(objects_mutex);
  objects.push_back(new Object(std::move(kind), std::move(text)));
  return objects.back();
}

Object* pooled(Object* object) {
  TORCH_CHECK(!pools.empty(), object->kind, " is autoreleased outside of any pool");
  pools.back().push_back(object);
  return object;
}

template <typename... Parts>
void record(const Parts&... parts) {
  std::ostringstream line;
  ((line << parts << ' '), ...);
  calls.push_back(line.str().substr(0, line.str().size() - 1));
}

Object* fails(const char* what, Object** error) {
  if (settings.count(what)) *error = pooled(make("error", settings[what]));
  return nullptr;
}

using Selector = const char* const*;  // GCC's ABI: {name, types}

Object* retain(Object* self, Selector) { return self->count++, self; }
void release(Object* self, Selector) {
  TORCH_CHECK(self->count > 0, self->kind, " is released once too often");
  self->count--;
}
Object* autorelease(Object* self, Selector) { return pooled(self); }

Object* alloc(Object* self, Selector) {
  if (self->kind == "NSAutoreleasePool class") return pools.emplace_back(), make("pool");
  return make(self->kind.substr(0, self->kind.find(' ')));
}
Object* init(Object* self, Selector) { return self; }
void drain(Object*, Selector selector) {
  for (Object* object : pools.back()) release(object, selector);
  pools.pop_back();
}

Object* string(Object*, Selector, const char* text) { return pooled(make("string", text)); }
const char* utf8(Object* self, Selector) { return self->text.c_str(); }
Object* description(Object* self, Selector) { return pooled(make("string", self->text)); }
Object* process(Object*, Selector) { return pooled(make("process", "Version 26.1 (Build 25B78)")); }

void set_constant(Object* self, Selector, const void* value, MTLDataType type, Object* name) {
  TORCH_CHECK(type == MTLDataTypeBool);
  self->constants[name->text] = *static_cast<const bool*>(value);
}

Object* new_library(Object*, Selector, dispatch_data_t, Object** error) {
  return settings.count("library") ? fails("library", error) : make("library");
}
Object* new_function(Object*, Selector, Object* name, Object* constants, Object** error) {
  if (settings.count("function")) return fails("function", error);
  Object* function = make("function", name->text);
  function->constants = constants->constants;
  return function;
}
Object* new_pipeline(Object*, Selector, Object* function, Object** error) {
  if (settings.count("slow")) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  if (settings.count("pipeline")) return fails("pipeline", error);
  TORCH_CHECK(function->count > 0, "a released function is used");
  return make("pipeline", function->name());
}
Object* device_of(Object*, Selector) { return (Object*)at::mps::MPSDevice::getInstance()->device(); }
NSUInteger threads_limit(Object*, Selector) {
  return settings.count("threads") ? std::stoul(settings["threads"]) : 1024;
}
NSUInteger memory_length(Object*, Selector) { return 12288; }
NSUInteger simd_width(Object*, Selector) { return 32; }
BOOL supports_family(Object*, Selector, MTLGPUFamily family) {
  return family <= (settings.count("family") ? std::stol(settings["family"]) : 1009);
}
uint64_t memory(Object*, Selector) { return 28991029248; }

Object* root(Object* self, Selector) { return self; }
MTLCommandBufferStatus status(Object* self, Selector) {
  const bool failed = self->text == "done" && settings.count("commands");
  return failed ? MTLCommandBufferStatusError : MTLCommandBufferStatus(self->text == "done" ? 4 : 0);
}
Object* error(Object* self, Selector selector) {
  Object* found = nullptr;
  if (status(self, selector) == MTLCommandBufferStatusError && settings["commands"] != "nil") fails("commands", &found);
  return found;
}

void set_pipeline(Object*, Selector, Object* pipeline) { record("pipeline", pipeline->text); }
void set_buffer(Object*, Selector, Object* buffer, NSUInteger offset, NSUInteger index) {
  record("buffer", index, buffer->text, offset);
}
void set_bytes(Object*, Selector, const unsigned char* bytes, NSUInteger length, NSUInteger index) {
  std::ostringstream hex;
  for (NSUInteger i = 0; i < length; i++) hex << "0123456789abcdef"[bytes[i] / 16] << "0123456789abcdef"[bytes[i] % 16];
  record("bytes", index, hex.str());
}
void dispatch(Object*, Selector, MTLSize grid, MTLSize threads) {
  record("dispatch", grid.width, grid.height, grid.depth, threads.width, threads.height, threads.depth);
}

const std::map<std::string, void*> methods = {
    {"retain", (void*)retain},
    {"release", (void*)release},
    {"autorelease", (void*)autorelease},
    {"alloc", (void*)alloc},
    {"init", (void*)init},
    {"drain", (void*)drain},
    {"stringWithUTF8String:", (void*)string},
    {"UTF8String", (void*)utf8},
    {"localizedDescription", (void*)description},
    {"processInfo", (void*)process},
    {"operatingSystemVersionString", (void*)description},
    {"setConstantValue:type:withName:", (void*)set_constant},
    {"newLibraryWithData:error:", (void*)new_library},
    {"newFunctionWithName:constantValues:error:", (void*)new_function},
    {"newComputePipelineStateWithFunction:error:", (void*)new_pipeline},
    {"device", (void*)device_of},
    {"maxTotalThreadsPerThreadgroup", (void*)threads_limit},
    {"staticThreadgroupMemoryLength", (void*)memory_length},
    {"threadExecutionWidth", (void*)simd_width},
    {"supportsFamily:", (void*)supports_family},
    {"recommendedMaxWorkingSetSize", (void*)memory},
    {"rootCommandBuffer", (void*)root},
    {"status", (void*)status},
    {"error", (void*)error},
    {"setComputePipelineState:", (void*)set_pipeline},
    {"setBuffer:offset:atIndex:", (void*)set_buffer},
    {"setBytes:length:atIndex:", (void*)set_bytes},
    {"dispatchThreadgroups:threadsPerThreadgroup:", (void*)dispatch},
};

Object* nothing(Object*, Selector) { return nullptr; }

// A tensor on mps over the memory of one on the CPU. Its buffer is called by the address of that memory.
at::Tensor as_mps(const at::Tensor& tensor) {
  std::ostringstream address;
  address << (uintptr_t)tensor.storage().data();
  c10::DataPtr buffer(make("buffer", address.str()), c10::Device(c10::kMPS, 0));
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(buffer), nullptr, false);
  at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::MPS), tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return result;
}

std::vector<std::string> take_calls() { return std::exchange(calls, {}); }

// The retain counts of all objects of a kind.
std::vector<int64_t> counts(const std::string& kind) {
  std::vector<int64_t> result;
  for (const Object* object : objects)
    if (object->kind == kind) result.push_back(object->count);
  return result;
}

int64_t open_pools() { return pools.size(); }

void set(const std::string& name, const std::string& value) {
  if (value.empty()) settings.erase(name);
  else settings[name] = value;
}

}  // namespace

// GCC's Objective-C ABI: https://gcc.gnu.org/onlinedocs/gcc/Messaging-with-the-GNU-Objective-C-runtime.html
extern "C" {
void __objc_exec_class(void*) {}
void* objc_lookup_class(const char* name) {
  static thread_local std::map<std::string, Object*> classes;
  Object*& found = classes[name];
  if (!found) found = make(std::string(name) + " class");
  return found;
}
void* objc_get_class(const char* name) { return objc_lookup_class(name); }
void* objc_msg_lookup(Object* receiver, Selector selector) {
  if (!receiver) return (void*)nothing;
  const auto found = methods.find(*selector);
  if (found == methods.end()) TORCH_CHECK(false, receiver->kind, " does not answer ", *selector);
  return found->second;
}
void* __objc_class_name_NSAutoreleasePool;
void* __objc_class_name_NSString;
void* __objc_class_name_NSProcessInfo;
void* __objc_class_name_MTLFunctionConstantValues;
void* _NSConcreteStackBlock[32];
void* _NSConcreteGlobalBlock[32];
void _Block_object_assign(void* to, const void* from, int) { *(const void**)to = from; }
void _Block_object_dispose(const void*, int) {}
// All exceptions here are C++'s.
int __gxx_personality_v0(int, int, uint64_t, void*, void*);
int __gnu_objc_personality_v0(int version, int actions, uint64_t kind, void* exception, void* context) {
  return __gxx_personality_v0(version, actions, kind, exception, context);
}
dispatch_queue_t dispatch_get_main_queue() { return nullptr; }
dispatch_data_t dispatch_data_create(const void*, size_t, dispatch_queue_t, dispatch_block_t) { return nullptr; }
}

namespace at::mps {

MPSDevice::MPSDevice() : _mtl_device((id<MTLDevice>)make("device")) {}
MPSDevice::~MPSDevice() {}
MPSDevice* MPSDevice::getInstance() {
  static MPSDevice* present = new MPSDevice;
  static MTLDevice_t no_device = nil;  // laid out as an MPSDevice, whose only member it is
  return settings.count("no device") ? reinterpret_cast<MPSDevice*>(&no_device) : present;
}
std::string MPSDevice::getName() const { return "Apple M3 Max"; }
unsigned MPSDevice::getCoreCount() const { return 40; }

MPSStream* getCurrentMPSStream() {
  alignas(MPSStream) static char streams[2][sizeof(MPSStream)] = {};
  return reinterpret_cast<MPSStream*>(streams[settings.count("other stream")]);
}
MPSCommandBuffer_t MPSStream::commandBuffer() {
  TORCH_CHECK(is_on_queue, "the command buffer is fetched outside of its queue");
  if (!_commandBuffer) _commandBuffer = (MPSCommandBuffer*)make("commands");
  return _commandBuffer;
}
void MPSStream::synchronize(SyncType type) {
  TORCH_CHECK(is_on_queue && type == SyncType::COMMIT_AND_WAIT);
  record("wait");
  ((Object*)_commandBuffer)->text = "done";
  release((Object*)_commandBuffer, nullptr);
  _commandBuffer = nil;
}
MTLComputeCommandEncoder_t MPSStream::commandEncoder() {
  TORCH_CHECK(is_on_queue, "the encoder is fetched outside of its queue");
  TORCH_CHECK(!settings.count("encoder"), settings["encoder"]);
  static std::map<MPSStream*, Object*> encoders;
  Object*& encoder = encoders[this];
  if (!encoder) encoder = make("encoder");
  return (id<MTLComputeCommandEncoder>)encoder;
}
void dispatch_sync_with_rethrow(dispatch_queue_t, void (^block)()) {
  const std::lock_guard<std::mutex> lock(queue_mutex);
  is_on_queue = true;
  try {
    block();
  } catch (...) {
    is_on_queue = false;
    throw;
  }
  is_on_queue = false;
}

}  // namespace at::mps

TORCH_LIBRARY(metal_standin, operators) {
  operators.def("as_mps", &as_mps);
  operators.def("take_calls", &take_calls);
  operators.def("counts", &counts);
  operators.def("open_pools", &open_pools);
  operators.def("set", &set);
}
