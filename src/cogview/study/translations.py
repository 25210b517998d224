"""The texts of the raters' pages, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

from cogview.study.records import Language

SCALE_TEXTS: Mapping[Language, Mapping[str, tuple[str, str, str, str]]] = {
    "en": {
        "clarity": ("Clarity", "Is the picture sharp or blurred?", "very blurred", "very sharp"),
        "texture": ("Texture", "Do surfaces and details look right?", "very poor", "very good"),
        "relevance": ("Relevance", "Does it show what the caption says?", "not at all", "exactly"),
        "overall": ("Overall", "All in all, how good is this picture?", "very bad", "excellent"),
    },
    "zh": {
        "clarity": ("清晰度", "画面是清晰还是模糊？", "非常模糊", "非常清晰"),
        "texture": ("质感", "物体的表面和细节是否自然？", "很差", "很好"),
        "relevance": ("相关性", "画面是否符合文字描述？", "完全不符", "完全符合"),
        "overall": ("总体评分", "总的来说，这张图片有多好？", "非常差", "非常好"),
    },
}

TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "name": "English",
        "study": "Picture study",
        "welcome": "Thank you for taking part",
        "ask": "You will see {positions} captions, each with {slots} pictures that belong to it.",
        "step_score": "Look at one picture at a time and give it four scores.",
        "step_best": "After the last picture of a caption, choose the one you like best.",
        "step_time": "There is no time limit. Every answer is saved at once: you can stop at any time and "
        "continue later with the same link, on any device.",
        "step_own": "There are no right or wrong answers; it is your own judgement that counts.",
        "private": "Your answers are saved under a number, without your name. Please keep your link private.",
        "begin": "Begin",
        "continue": "Continue",
        "look_again": "Look at my answers again",
        "caption": "Caption",
        "group_of": "Caption {position} of {positions}",
        "picture_of": "Picture {slot} of {slots}",
        "picture": "Picture {slot}",
        "choose": "Which picture is the best?",
        "choose_hint": "Choose one of the pictures you have just rated.",
        "save": "Save and continue",
        "back": "Back",
        "missing": "Please give all four scores.",
        "missing_best": "Please choose one picture.",
        "early": "Not yet",
        "early_text": "Please rate every picture of this caption first, from your personal link.",
        "done": "All done. Thank you!",
        "done_text": "All your answers are saved. You may close this page.",
        "your_number": "You are rater number {rater}.",
        "no_link": "This link is not valid",
        "no_link_text": "Please open the complete personal link that you were sent.",
        "no_page": "There is no such page",
        "no_page_text": "Please open your personal link again to continue.",
        "refused": "That did not work",
        "refused_text": "The answer did not come from this study's own page. Please open your link again.",
        "trouble": "Something went wrong",
        "trouble_text": "Your saved answers are safe. Please try again in a moment.",
        "offline": "The server cannot be reached. Your answer is kept here and sent as soon as it is back.",
        "saving": "Saving …",
        "shortcuts": "Keyboard: 1–5 for the three scores, then 1–9 or 0 (for 10), Enter to continue.",
        "total": "{done} of {total} answers saved",
    },
    "zh": {
        "name": "中文",
        "study": "图片评测",
        "welcome": "感谢您的参与",
        "ask": "您将看到 {positions} 条文字描述，每条描述配有 {slots} 张图片。",
        "step_score": "每次看一张图片，给出四项评分。",
        "step_best": "看完一条描述的所有图片后，选出您认为最好的一张。",
        "step_time": "没有时间限制。每个回答都会立即保存：您可以随时停下，之后用同一个链接在任何设备上继续。",
        "step_own": "答案没有对错，请按您自己的感觉判断。",
        "private": "您的回答只以编号保存，不记录姓名。请不要把您的链接转给别人。",
        "begin": "开始",
        "continue": "继续",
        "look_again": "查看我的回答",
        "caption": "文字描述",
        "group_of": "第 {position} 条描述，共 {positions} 条",
        "picture_of": "第 {slot} 张图片，共 {slots} 张",
        "picture": "图片 {slot}",
        "choose": "哪一张图片最好？",
        "choose_hint": "请从刚才评过的图片中选出一张。",
        "save": "保存并继续",
        "back": "返回",
        "missing": "请给出全部四项评分。",
        "missing_best": "请选择一张图片。",
        "early": "还不能选择",
        "early_text": "请从您的个人链接进入，先为这条描述的每张图片评分。",
        "done": "全部完成，谢谢您！",
        "done_text": "您的回答已全部保存，可以关闭本页。",
        "your_number": "您的编号是 {rater}。",
        "no_link": "链接无效",
        "no_link_text": "请完整地打开发给您的个人链接。",
        "no_page": "没有这个页面",
        "no_page_text": "请从您的个人链接重新进入。",
        "refused": "操作未成功",
        "refused_text": "这个回答不是从本评测的页面发出的。请重新打开您的链接。",
        "trouble": "出了点问题",
        "trouble_text": "之前保存的内容都在。请稍后再试。",
        "offline": "暂时连不上服务器。您的回答保留在这里，连接恢复后会自动发送。",
        "saving": "正在保存…",
        "shortcuts": "键盘：前三项按 1–5，总体评分按 1–9 或 0（10 分），回车继续。",
        "total": "已保存 {done} / {total} 个回答",
    },
}


def preferred(header: str) -> Language:
    """The language of an ``Accept-Language`` header: Chinese if it precedes English, else English."""
    for part in header.lower().split(","):
        tag = part.split(";")[0].strip()
        if tag.startswith("zh"):
            return "zh"
        if tag.startswith("en"):
            return "en"
    return "en"
