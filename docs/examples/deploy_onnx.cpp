// Classifies a photo with a file of `proxyless-nas export --to onnx --normalise`:
//   ./deploy_onnx network.onnx photo.ppm
#include <onnxruntime_cxx_api.h>

#include "photo.hpp"

int main(int, char** arguments) {
  Ort::Env env;
  Ort::SessionOptions options;
  options.AddConfigEntry("session.x64quantprecision", "1");  // int8 without overflow on x86 CPUs without VNNI
  Ort::Session session(env, arguments[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  const auto classes = session.GetModelMetadata().LookupCustomMetadataMapAllocated("classes", allocator);
  int size = 0;
  std::vector<float> pixels = read_ppm(arguments[2], size);
  const int64_t shape[] = {1, 3, size, size};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto image = Ort::Value::CreateTensor<float>(memory, pixels.data(), pixels.size(), shape, 4);
  const char *inputs[] = {"images"}, *outputs[] = {"logits"};
  const auto logits = session.Run(Ort::RunOptions{}, inputs, &image, 1, outputs, 1);
  print_likeliest(logits[0].GetTensorData<float>(), std::string("\"classes\": ") + classes.get());
}
