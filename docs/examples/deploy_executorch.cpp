// Classifies a photo with a file of `proxyless-nas export --to executorch --normalise`:
//   ./deploy_executorch network.pte photo.ppm
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include "photo.hpp"

int main(int, char** arguments) {
  const std::string path = arguments[1];
  std::ifstream beside(path + ".json");
  const std::string metadata(std::istreambuf_iterator<char>(beside), {});
  int size = 0;
  std::vector<float> pixels = read_ppm(arguments[2], size);
  executorch::extension::Module module(path);
  const auto image = executorch::extension::from_blob(pixels.data(), {1, 3, size, size});
  const auto outputs = module.forward(image);
  if (!outputs.ok()) throw std::runtime_error(path + ": cannot be run");
  print_likeliest(outputs->at(0).toTensor().const_data_ptr<float>(), metadata);
}
