// The page's texts in both languages, and example prompts.

export const TEXTS = {
  en: {
    skip: "Skip to the images", language: "Language", prompt: "What to generate", prompt_hint: "In English or Chinese",
    examples: "Examples", style: "Style", no_style: "none", number: "Images", seed: "Seed", seed_hint: "random",
    best: "Best of", best_hint: "How many candidates are generated for each image; the one that the prompt describes best is kept.",
    generate: "Generate", stop: "Stop", images: "Images", clear: "Delete all", download: "Download",
    describe: "Describe", remove: "Delete", remove_label: "Delete this image", use: "Use as prompt: {text}",
    describe_title: "Describe an image", describe_hint: "Choose an image, or drop one here", describing: "Looking at it…",
    no_captions: "Nothing comes to mind.", not_an_image: "The browser cannot read this file as an image.",
    never_learnt: "The model never learnt “{word}”. Near it:", replace: "Replace “{word}” with “{other}”",
    clear_sure: "Delete all images from this browser?", empty: "Images appear here, and stay in this browser.",
    on_device: "Everything is computed on this device; nothing leaves the page.", loading_label: "Loading the model",
    loading: "Loading the model: {percent} %", preparing: "Preparing the model…", ready: "Ready",
    generating: "Generating image {done} of {n}…", generating_candidates: "Generating image {done} of {n}, candidate {candidate} of {of}…",
    finished: "{n} ready", stopped: "Stopped",
    failed: "The model cannot be loaded ({reason}). Reload the page to try again.", error: "{reason}",
    about: "{model} · {megabytes} MB · {backend} · seed, model and an AI label are in each file",
    gpu: "WebGPU", threads: "{threads} threads", one_thread: "one thread",
  },
  zh: {
    skip: "跳到图片", language: "语言", prompt: "画什么", prompt_hint: "中文或英文",
    examples: "例子", style: "风格", no_style: "无", number: "张数", seed: "种子", seed_hint: "随机",
    best: "择优", best_hint: "每张图生成这么多候选，保留与提示最相符的一张。",
    generate: "生成", stop: "停止", images: "图片", clear: "全部删除", download: "下载",
    describe: "描述", remove: "删除", remove_label: "删除这张图片", use: "用作提示：{text}",
    describe_title: "描述一张图片", describe_hint: "选择一张图片，或拖到这里", describing: "正在看图…",
    no_captions: "想不出什么。", not_an_image: "浏览器无法读取这个文件，它不是图片。",
    never_learnt: "模型没有学过“{word}”，相近的有：", replace: "把“{word}”换成“{other}”",
    clear_sure: "从这个浏览器里删除所有图片吗？", empty: "图片会出现在这里，并保存在这个浏览器中。",
    on_device: "一切都在这台设备上计算，什么都不会离开这个页面。", loading_label: "正在下载模型",
    loading: "正在下载模型：{percent} %", preparing: "正在准备模型…", ready: "可以开始了",
    generating: "正在生成第 {done} 张，共 {n} 张…", generating_candidates: "正在生成第 {done} 张，共 {n} 张，候选 {candidate} / {of}…",
    finished: "生成了 {n} 张", stopped: "已停止",
    failed: "模型加载失败（{reason}）。请刷新页面再试。", error: "{reason}",
    about: "{model} · {megabytes} MB · {backend} · 每个文件里都写有种子、模型和 AI 标识",
    gpu: "WebGPU", threads: "{threads} 个线程", one_thread: "单线程",
  },
};

export const EXAMPLES = {
  en: ["a red apple", "a blue monster with round eyes, red background", "a planet with a thin ring"],
  zh: ["红苹果", "一个蓝色的小怪物，圆眼睛，红色背景", "一只戴帽子的猫"],
};
