// The likeliest image of a prompt, from an exported family, with ONNX Runtime's C++ API: see README.md.
#include <fstream>
#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>
#include <sentencepiece_processor.h>
int main(int, char** words) {  // FOLDER PROMPT FILE.ppm
  const std::string folder = std::string(words[1]) + "/";
  const auto manifest = nlohmann::json::parse(std::ifstream(folder + "manifest.json"));
  const auto &layout = manifest["prompt"], &base = manifest["transformers"]["base"], &image = manifest["image"];
  const int64_t layers = base["layers"], heads = base["attention_heads"], width = base["head_dim"], hidden = base["hidden"];
  Ort::Env env;
  const auto open = [&](std::string name) { return Ort::Session(env, (folder + name).c_str(), Ort::SessionOptions{}); };
  Ort::Session reader = open(base["graph"]), head = open(base["heads"]["image"]["graph"]), decoder = open(image["decoder"]);
  const auto tensor = [memory = Ort::AllocatorWithDefaultOptions().GetInfo()](auto& data, std::vector<int64_t> shape) {
    return Ort::Value::CreateTensor(memory, data.data(), data.size(), shape.data(), shape.size());
  };
  const auto run = [](Ort::Session& session, const char* in, Ort::Value value, const char* out) {
    return std::move(session.Run({}, &in, &value, 1, &out, 1)[0]);
  };
  sentencepiece::SentencePieceProcessor tokenizer;
  std::vector<int> text, ids = layout["before"], positions = layout["before_positions"], codes;
  if (!tokenizer.Load(folder + "text.model").ok() || !tokenizer.Encode(words[2], &text).ok()) return 1;
  const int size = text.size(), moved = layout["shift"].get<int>() * size, place = layout["text_position"];
  const int both = layout["two_way"].is_null() ? 0 : layout["two_way"].get<int>() + size;  // see each other both ways
  for (int i = 0; i < size; i++) ids.push_back(layout["text_first"].get<int>() + text[i]), positions.push_back(place + i);
  for (int id : layout["after"]) ids.push_back(id);
  for (int after : layout["after_positions"]) positions.push_back(after + moved);
  const int64_t steps = layout["code_positions"].size(), capacity = ids.size() + steps;
  std::vector caches(2 * layers, std::vector<float>(hidden * capacity));  // keys of all layers, then values
  std::vector<std::string> names(2 * layers);
  std::vector<const char*> in{"ids", "positions", "mask"}, out{"hidden"};
  for (int i = 0; i < 2 * layers; i++) names[i] = (i < layers ? "new_keys." : "new_values.") + std::to_string(i % layers);
  for (auto& name : names) out.push_back(name.c_str()), in.push_back(name.c_str() + 4);  // without new_
  for (int64_t held = 0, n = ids.size(); (int64_t)codes.size() < steps; held += n, n = 1, ids = {codes.back()}) {
    if (held) positions = {layout["code_positions"][codes.size() - 1].get<int>() + moved};
    std::vector<float> mask;  // 0: seen, which is what the cache holds, and of the new tokens those before
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0, end = capacity + std::max<int64_t>(i + 1, both); j < capacity + n; j++)
        mask.push_back(j < held || (j >= capacity && j < end) ? 0 : -INFINITY);
    std::vector<Ort::Value> feed;
    for (auto* data : {&ids, &positions}) feed.push_back(tensor(*data, {1, n}));
    feed.push_back(tensor(mask, {1, n, capacity + n}));
    for (int i = 0; i < layers; i++) feed.push_back(tensor(caches[i], {1, heads, width, capacity}));
    for (int i = layers; i < 2 * layers; i++) feed.push_back(tensor(caches[i], {1, heads, capacity, width}));
    auto found = reader.Run({}, in.data(), feed.data(), in.size(), out.data(), out.size());
    for (int i = 0; i < 2 * layers; i++)  // store the new keys and values after those that are held
      for (int64_t row = 0, unit = i < layers ? 1 : width; row < hidden / unit; row++)
        std::copy_n(found[1 + i].GetTensorData<float>() + row * n * unit, n * unit, &caches[i][(row * capacity + held) * unit]);
    std::vector<float> last(found[0].GetTensorData<float>() + (n - 1) * hidden, found[0].GetTensorData<float>() + n * hidden);
    const auto logits = run(head, "hidden", tensor(last, {1, hidden}), "logits");
    const auto* row = logits.GetTensorData<float>();
    codes.push_back(std::max_element(row, row + image["codes"].get<int>()) - row);
  }
  const auto images = run(decoder, "codes", tensor(codes, {1, image["grid"][0], image["grid"][1]}), "images");
  const int side = image["image_size"], plane = side * side;
  std::ofstream file(words[3], std::ios::binary);
  file << "P6 " << side << ' ' << side << " 255\n";
  for (int i = 0; i < 3 * plane; i++)
    file.put(std::lround(255 * std::clamp(images.GetTensorData<float>()[i % 3 * plane + i / 3], 0.f, 1.f)));
}
