// The side of HCCL that CANN's graph engine knows: MindSpore wants it to be there, and with graphs of
// its own never uses it. In the ABI that CANN and MindSpore are built for.
#define _GLIBCXX_USE_CXX11_ABI 0
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace ge {
using Options = std::map<std::string, std::string>;

struct Part {  // the beginning of the tables of virtual functions in GE's headers
  virtual ~Part() = default;
  virtual uint32_t Initialize(const Options &) { return 0; }
  virtual uint32_t Finalize() { return 0; }
  virtual uint32_t CreateSession(const Options &) { return 0; }
  virtual uint32_t DestroySession(const Options &) { return 0; }
};
struct OpsKernelInfoStore : Part {};
struct OpsKernelBuilder : Part {};

class OpsKernelBuilderRegistry {
 public:
  using Builders = std::map<std::string, std::shared_ptr<OpsKernelBuilder>>;
  static OpsKernelBuilderRegistry &GetInstance();
  const Builders &GetAll() const;

 private:
  Builders builders{{"ops_kernel_info_hccl", std::make_shared<OpsKernelBuilder>()}};
};

OpsKernelBuilderRegistry &OpsKernelBuilderRegistry::GetInstance() {
  static OpsKernelBuilderRegistry registry;
  return registry;
}

const OpsKernelBuilderRegistry::Builders &OpsKernelBuilderRegistry::GetAll() const {
  return builders;
}
}  // namespace ge

extern "C" void GetOpsKernelInfoStores(
    std::map<std::string, std::shared_ptr<ge::OpsKernelInfoStore>> &stores) {
  stores["ops_kernel_info_hccl"] = std::make_shared<ge::OpsKernelInfoStore>();
}
