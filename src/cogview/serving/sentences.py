"""Comparison sentences for scores: the same 60 in English and Chinese.

A caption loss alone says little, as it depends on the model and on how common the words are. The share of
these sentences whose loss an image lowers by less than the scored sentence's is a scale common to all models.
"""

from __future__ import annotations

from cogview.tokenizers.language_classes import is_chinese

PAIRS = """
    a red apple = 一个红苹果
    a bunch of grapes = 一串葡萄
    a slice of pizza = 一块披萨
    a cup of coffee = 一杯咖啡
    a bowl of noodles = 一碗面条
    a birthday cake with candles = 插着蜡烛的生日蛋糕
    a loaf of bread = 一个面包
    an ice cream cone = 一个冰淇淋
    a green leaf = 一片绿叶
    a sunflower = 一朵向日葵
    a potted cactus = 一盆仙人掌
    a tall pine tree = 一棵高大的松树
    a mushroom with white dots = 一个带白点的蘑菇
    a bouquet of flowers = 一束鲜花
    a brown dog = 一只棕色的狗
    a sleeping cat = 一只睡觉的猫
    a white rabbit = 一只白兔
    a black horse = 一匹黑马
    a grey elephant = 一头灰色的大象
    a yellow chick = 一只黄色的小鸡
    a fish under water = 水里的一条鱼
    a butterfly with blue wings = 一只蓝翅膀的蝴蝶
    a bee on a flower = 花上的一只蜜蜂
    a green frog = 一只绿色的青蛙
    a lion with a mane = 一头有鬃毛的狮子
    an owl at night = 夜里的一只猫头鹰
    a penguin on ice = 冰上的一只企鹅
    a red car = 一辆红色的汽车
    a yellow bus = 一辆黄色的公共汽车
    a bicycle = 一辆自行车
    a sailing boat = 一艘帆船
    a rocket in space = 太空中的一枚火箭
    an airplane in the sky = 天上的一架飞机
    a steam train = 一列蒸汽火车
    a house with a chimney = 一座有烟囱的房子
    a castle on a hill = 山上的一座城堡
    a bridge over a river = 河上的一座桥
    a lighthouse by the sea = 海边的一座灯塔
    a snowy mountain = 一座雪山
    a sandy beach with a palm tree = 有棕榈树的沙滩
    the sun behind a cloud = 云后的太阳
    a crescent moon = 一弯月亮
    a rainbow = 一道彩虹
    a planet with a ring = 一颗带光环的行星
    falling snow = 正在下雪
    a smiling face = 一张笑脸
    a crying face = 一张哭脸
    a woman with long hair = 一个长头发的女人
    an old man with a beard = 一位留胡子的老人
    a child with a balloon = 一个拿气球的孩子
    a waving hand = 一只挥动的手
    a red heart = 一颗红心
    a wooden chair = 一把木椅
    a lamp on a table = 桌上的一盏灯
    an open book = 一本打开的书
    a pair of scissors = 一把剪刀
    a blue umbrella = 一把蓝色的伞
    a football = 一个足球
    a guitar = 一把吉他
    a clock on the wall = 墙上的一个钟
"""
_LINES = [line.partition(" = ") for line in PAIRS.strip().splitlines()]
SENTENCES = {
    "en": tuple(english.strip() for english, _, _ in _LINES),
    "zh": tuple(chinese.strip() for _, _, chinese in _LINES),
}


def others_for(prompt: str) -> tuple[str, ...]:
    """The sentences in the prompt's language, without the prompt itself."""
    sentences = SENTENCES["zh" if is_chinese(prompt) else "en"]
    return tuple(sentence for sentence in sentences if sentence != prompt.strip())


def share_above(loss: float, others: list[float]) -> float:
    """The share of ``others`` that are higher than ``loss``, from 0 to 1; equal values count half."""
    return sum((other > loss) + (other == loss) / 2 for other in others) / len(others)
