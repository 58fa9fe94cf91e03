// Reads a picture and prints the likeliest classes: what the C++ programs beside this file share.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <numeric>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

// Returns the pixels (3, S, S) from 0 to 255 of a binary PPM of S x S pixels, already resized and cropped.
inline std::vector<float> read_ppm(const std::string& path, int& size) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int height = 0, most = 0;
  file >> kind >> size >> height >> most;
  if (!file || kind != "P6" || size != height || most != 255) throw std::runtime_error(path + ": no square P6 picture");
  file.get();  // the line's end
  const std::vector<unsigned char> bytes(std::istreambuf_iterator<char>(file), {});
  std::vector<float> pixels(bytes.size());
  for (size_t i = 0; i < bytes.size(); i++) pixels[i % 3 * (bytes.size() / 3) + i / 3] = bytes[i];
  return pixels;
}

// Prints the three likeliest classes. metadata: the file's JSON text, whose "classes" are their names.
inline void print_likeliest(const float* logits, const std::string& metadata) {
  std::vector<std::string> classes;
  const std::regex quoted("\"((?:[^\"\\\\]|\\\\.)*)\"");
  const auto begin = metadata.begin() + metadata.find('[', metadata.find("\"classes\""));
  const auto end = std::find(begin, metadata.end(), ']');  // no name of the usual data sets has a bracket
  for (std::sregex_iterator name(begin, end, quoted), none; name != none; ++name) classes.push_back((*name)[1]);
  const size_t n = classes.size();
  const float largest = *std::max_element(logits, logits + n);
  const float sum = std::accumulate(logits, logits + n, 0.f, [=](float s, float x) { return s + std::exp(x - largest); });
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [=](size_t a, size_t b) { return logits[a] > logits[b]; });
  for (size_t i = 0; i < std::min<size_t>(3, n); i++)
    std::printf("%5.1f %%  %s\n", 100 * std::exp(logits[order[i]] - largest) / sum, classes[order[i]].c_str());
}
