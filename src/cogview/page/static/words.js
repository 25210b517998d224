// What the page says, in both languages, and prompts to begin with.

export const WORDS = {
  en: {
    skip: "Skip to the images", language: "Language", prompt: "What to generate", prompt_hint: "In English or Chinese",
    examples: "Examples", style: "Style", no_style: "none", number: "Images", seed: "Seed", seed_hint: "new each time",
    generate: "Generate", stop: "Stop", images: "Images", clear: "Clear all", download: "Download",
    clear_sure: "Delete all images from this browser?",
    stays: "Everything is computed on this device; nothing leaves the page.",
    loading: "Loading the model: {percent} %", preparing: "Preparing the model…", ready: "Ready",
    working: "Generating image {done} of {n}…", made: "{n} ready", stopped: "Stopped",
    failed: "The model cannot be loaded ({reason}). Reload the page to try again.", wrong: "{reason}",
    about: "{model}, {megabytes} MB, {threads} thread(s), seed and model are in each file",
  },
  zh: {
    skip: "跳到图片", language: "语言", prompt: "画什么", prompt_hint: "中文或英文",
    examples: "例子", style: "风格", no_style: "无", number: "张数", seed: "种子", seed_hint: "每次都换",
    generate: "生成", stop: "停止", images: "图片", clear: "全部清除", download: "下载",
    clear_sure: "从这个浏览器里删除所有图片吗？",
    stays: "一切都在这台设备上计算，什么都不会离开这个页面。",
    loading: "正在下载模型：{percent} %", preparing: "正在准备模型…", ready: "可以开始了",
    working: "正在生成第 {done} 张，共 {n} 张…", made: "生成了 {n} 张", stopped: "已停止",
    failed: "模型加载失败（{reason}）。请刷新页面再试。", wrong: "{reason}",
    about: "{model}，{megabytes} MB，{threads} 个线程；每个文件里都写有种子和模型",
  },
};

export const EXAMPLES = {
  en: ["a red apple", "a blue monster with round eyes, red background", "a planet with a thin ring"],
  zh: ["红苹果", "一个蓝色的小怪物，圆眼睛，红色背景", "一只戴帽子的猫"],
};
