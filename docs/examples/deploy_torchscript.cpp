// Classifies a photo with a file of `proxyless-nas export --to torchscript --normalise`:
//   ./deploy_torchscript network.torchscript.pt photo.ppm
#include <torch/script.h>

#include "photo.hpp"

int main(int, char** arguments) {
  torch::jit::ExtraFilesMap inside{{"metadata.json", ""}};
  torch::jit::Module module = torch::jit::load(arguments[1], torch::kCPU, inside);
  int size = 0;
  std::vector<float> pixels = read_ppm(arguments[2], size);
  const torch::Tensor image = torch::from_blob(pixels.data(), {1, 3, size, size});
  const c10::InferenceMode guard;
  const torch::Tensor logits = module.forward({image}).toTensor().contiguous();
  print_likeliest(logits.data_ptr<float>(), inside["metadata.json"]);
}
