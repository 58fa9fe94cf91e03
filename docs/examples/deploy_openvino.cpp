// Classifies a photo with a file of `proxyless-nas export --to openvino --normalise`:
//   ./deploy_openvino network.xml photo.ppm
#include <openvino/openvino.hpp>

#include "photo.hpp"

int main(int, char** arguments) {
  ov::Core core;
  const auto model = core.read_model(arguments[1]);
  const auto classes = model->get_rt_info<std::string>("proxylessnas", "classes");
  auto request = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32)).create_infer_request();
  int size = 0;
  std::vector<float> pixels = read_ppm(arguments[2], size);
  const ov::Shape shape{1, 3, static_cast<size_t>(size), static_cast<size_t>(size)};
  request.set_input_tensor(ov::Tensor(ov::element::f32, shape, pixels.data()));
  request.infer();
  print_likeliest(request.get_output_tensor().data<float>(), "\"classes\": " + classes);
}
