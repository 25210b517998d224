"""Put the trained parts of `pictogram` together as a family directory.

python examples/pictogram/assemble.py --tokenizer runs/tokenizer/model --text work/text.model \
    --base runs/base/model --out src/cogview/models/pictogram
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cogview.config import load_json
from cogview.family import Defaults, FamilyConfig, Fingerprints, Role, write_family
from cogview.sequences import SequenceFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer

STYLES = {
    "3d": {"en": "3D", "zh": "三维立体"},
    "flat": {"en": "flat", "zh": "扁平"},
    "glossy": {"en": "glossy gradient", "zh": "渐变光泽"},
    "black-and-white": {"en": "black and white", "zh": "黑白"},
    "blob": {"en": "blob", "zh": "小团子"},
    "noto": {"en": "Noto cartoon", "zh": "谷歌卡通"},
    "twitter": {"en": "Twitter flat", "zh": "推特扁平"},
    "emojione": {"en": "EmojiOne", "zh": "圆润卡通"},
    "firefox": {"en": "Firefox", "zh": "火狐"},
    "outlined": {"en": "outlined", "zh": "描边"},
    "icon": {"en": "icon", "zh": "图标"},
    "round": {"en": "round", "zh": "圆形"},
}


def assemble(tokenizer: Path, text: Path, roles: dict[str, Path], out: Path, defaults: Defaults) -> None:
    """Read what training wrote beside each role's weights, and write the family; a model card is kept."""
    sequences = {
        name: SequenceFormat.model_validate(load_json(path / "training.json")["sequences"])
        for name, path in roles.items()
    }
    config = FamilyConfig(
        name=out.name,
        vocabulary=next(iter(sequences.values())).vocabulary,
        roles={name: Role(directory=name, sequences=form) for name, form in sequences.items()},
        styles=STYLES,
        defaults=defaults,
        fingerprints=Fingerprints(
            image_tokenizer=ImageTokenizer.from_directory(tokenizer).fingerprint,
            text_tokenizer=TextTokenizer.from_file(text).fingerprint,
        ),
    )
    card = out / "card.md"
    kept = card.read_text(encoding="utf-8") if card.is_file() else None
    family = write_family(config, out, {"image_tokenizer": tokenizer, "text.model": text, **roles})
    if kept is not None:
        card.write_text(kept, encoding="utf-8")
    print(f"{family.directory}: {family.hash[:16]}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1.0)
    given = parser.parse_args()
    defaults = Defaults(temperature=given.temperature, top_k=given.top_k, guidance=given.guidance)
    assemble(given.tokenizer, given.text, {"base": given.base}, given.out, defaults)


if __name__ == "__main__":
    main()
