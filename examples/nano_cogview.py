"""CogView in one file: an image tokenizer, a transformer over text and image tokens, and sampling.

    python examples/nano_cogview.py --out nano

trains both on captioned shapes that the file draws itself (a few minutes on one core of a CPU), then
generates images for captions that were held out, and counts how many show the colours that were asked for.
The library does the same at any size; ``tests/test_nano_cogview.py`` shows that its tokenizer, sequences and
transformer give the same numbers with the weights of this file. In the order of reading:

1. images become a grid of codes and back       VQ-VAE, CogView section 2.2 and appendix A
2. text and codes become one sequence           section 2.1: [ROI1] text [BASE] [BOI1] codes [EOI1]
3. a transformer predicts the next token        sections 2.3 and 2.4: Sandwich-LN, PB-relaxed LayerNorm
4. an image is sampled code by code             guidance, temperature, top-k; a K/V cache

Shapes in comments: b images, n tokens, h hidden, d head_dim; images are (b, 3, SIDE, SIDE) in [0, 1].
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, GRID = 32, 8  # pixels of an image; codes of a side: one code stands for 4 x 4 pixels
CODES, CODE_DIM, WIDTH = 64, 16, 48  # of the tokenizer: codebook, width of a code, channels
LAYERS, HIDDEN, HEADS = 4, 128, 4  # of the transformer
COLOURS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (52, 101, 210),
    "yellow": (245, 196, 50),
    "white": (245, 245, 245),
    "black": (25, 25, 28),
}
SHAPES = ("circle", "square", "triangle", "ring")
WORDS = ("a", "on", *COLOURS, *SHAPES)  # the text vocabulary: a token is a word

# One id space (section 2.1): image codes, then text tokens, then control tokens.
TEXT = CODES
ROI1, BASE, BOI1, EOI1 = range(TEXT + len(WORDS), TEXT + len(WORDS) + 4)
ROWS = EOI1 + 1
SLOTS = 8  # positions of [ROI1] and the text; what belongs to the image stands after them


# ------------------------------------------------------------------------------------------------ the data


def caption(colour: str, shape: str, ground: str) -> str:
    """The text of an image."""
    return f"a {colour} {shape} on {ground}"


def picture(colour: str, shape: str, ground: str, rng: np.random.Generator) -> np.ndarray:
    """A shape of varied size and place, (SIDE, SIDE, 3) uint8; drawn large and reduced, for smooth edges."""
    scale = 4
    image = Image.new("RGB", (SIDE * scale, SIDE * scale), COLOURS[ground])
    draw, radius = ImageDraw.Draw(image), rng.uniform(9, 11) * scale
    x, y = (SIDE / 2 + rng.uniform(-2, 2, 2)) * scale
    box, fill = (x - radius, y - radius, x + radius, y + radius), COLOURS[colour]
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=fill)
    else:
        draw.ellipse(box, outline=fill, width=round(radius / 2.5))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def combinations() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """What is trained on, and what is held out: every sixth of all combinations of two different colours."""
    every = [(c, s, g) for c, s, g in product(COLOURS, SHAPES, COLOURS) if c != g]
    return [x for i, x in enumerate(every) if i % 6 != 2], every[2::6]


def dataset(count: int, seed: int) -> tuple[list[list[int]], Tensor]:
    """Text tokens and images (count, 3, SIDE, SIDE) in [0, 1]."""
    rng, (train, _) = np.random.default_rng(seed), combinations()
    chosen = [train[i] for i in rng.integers(0, len(train), count)]
    images = np.stack([picture(*one, rng) for one in chosen])
    return [tokens_of(caption(*one)) for one in chosen], torch.tensor(images).permute(0, 3, 1, 2) / 255


# -------------------------------------------------------------------------------- 1. images to codes and back


class ImageTokenizer(nn.Module):
    """Two 4 x 4 convolutions of stride 2, the nearest code of a codebook, and the mirror image (appendix A).

    The codebook is not learned by gradients: each code is a moving average of the vectors mapped to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, WIDTH, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(WIDTH, CODE_DIM, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(CODE_DIM, WIDTH, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(WIDTH, 3, 1),
        )  # fmt: skip
        self.register_buffer("codebook", torch.randn(CODES, CODE_DIM))
        self.register_buffer("count", torch.ones(CODES))
        self.register_buffer("total", self.codebook.clone())

    def features(self, images: Tensor) -> Tensor:
        """(b, GRID, GRID, CODE_DIM), before they are replaced by codes."""
        return self.encoder((images - 0.5) / 0.5).permute(0, 2, 3, 1)

    def nearest(self, z: Tensor) -> Tensor:
        """Codes int64 of vectors (..., CODE_DIM); |z|^2 is the same for every code and left out."""
        distances = self.codebook.pow(2).sum(1) - 2 * z @ self.codebook.T
        return distances.argmin(-1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes (b, GRID * GRID) int64, row by row."""
        return self.nearest(self.features(images)).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Images of codes (b, GRID * GRID)."""
        return self.paint(self.codebook[codes].view(-1, GRID, GRID, CODE_DIM))

    def paint(self, vectors: Tensor) -> Tensor:
        """Images of vectors (b, GRID, GRID, CODE_DIM)."""
        return self.decoder(vectors.permute(0, 3, 1, 2)) * 0.5 + 0.5

    def loss(self, images: Tensor) -> Tensor:
        """Reconstruction, and the commitment that pulls the encoder's vectors to their codes."""
        z = self.features(images)
        codes = self.nearest(z)
        vectors = self.codebook[codes]
        self.learn(z.detach().reshape(-1, CODE_DIM), codes.flatten())
        straight = z + (vectors - z).detach()  # the gradient passes the rounding as if it were not there
        return F.l1_loss(self.paint(straight), images) + F.mse_loss(z, vectors)

    @torch.no_grad()
    def learn(self, z: Tensor, codes: Tensor, decay: float = 0.99) -> None:
        """Move each code to the mean of its vectors z (m, CODE_DIM); restart codes that nothing uses."""
        count = torch.bincount(codes, minlength=CODES).float()
        total = torch.zeros_like(self.codebook).index_add_(0, codes, z)
        self.count.lerp_(count, 1 - decay)
        self.total.lerp_(total, 1 - decay)
        dead = (self.count < 0.05).nonzero().flatten()
        self.total[dead], self.count[dead] = z[torch.randint(len(z), (len(dead),))], 1.0
        self.codebook.copy_(self.total / self.count[:, None])


# -------------------------------------------------------------------------------- 2. one sequence of tokens


def tokens_of(text: str) -> list[int]:
    """The text's tokens, counted from 0."""
    return [WORDS.index(word) for word in text.split()]


def prompt(text: list[int]) -> tuple[Tensor, Tensor]:
    """Ids and positions (n,) of [ROI1] text [BASE] [BOI1]; the codes follow."""
    ids = [ROI1, *(TEXT + token for token in text), BASE, BOI1]
    positions = [*range(1 + len(text)), SLOTS, SLOTS + 1]
    return torch.tensor(ids), torch.tensor(positions)


def sequence(text: list[int], codes: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and positions (n,) of a whole sequence: the prompt, the codes (GRID * GRID,) and [EOI1]."""
    ids, positions = prompt(text)
    after = SLOTS + 2 + torch.arange(len(codes) + 1)
    return torch.cat([ids, codes, torch.tensor([EOI1])]), torch.cat([positions, after])


def batch(texts: list[list[int]], codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions (b, n) and which tokens count in the loss (b, n), padded at the end to the longest."""
    made = [sequence(text, own) for text, own in zip(texts, codes, strict=True)]
    ids, positions = (nn.utils.rnn.pad_sequence(part, batch_first=True) for part in zip(*made, strict=True))
    lengths = torch.tensor([len(one) for one, _ in made])
    return ids, positions, torch.arange(ids.shape[1]) < lengths[:, None]


# -------------------------------------------------------------------------------- 3. the transformer


class LayerNorm(nn.LayerNorm):
    """PB-relaxed (section 2.4): the largest value is divided out first, so that squares cannot overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-38))


class Block(nn.Module):
    """x + norm(attention(norm(x))), then the same with a feed-forward: Sandwich-LN (figure 4a)."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.after_attention = LayerNorm(HIDDEN), LayerNorm(HIDDEN)
        self.before_mlp, self.after_mlp = LayerNorm(HIDDEN), LayerNorm(HIDDEN)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        x = x + self.after_attention(self.attend(self.before_attention(x), cache))
        y = self.down(F.gelu(self.up(self.before_mlp(x)), approximate="tanh"))
        return x + self.after_mlp(y)

    def attend(self, x: Tensor, cache: list[Tensor] | None) -> Tensor:
        """Causal attention (b, n, h) -> (b, n, h); ``cache`` holds the keys and values of earlier tokens."""
        b, n, h = x.shape
        query, key, value = self.qkv(x).view(b, n, 3, HEADS, h // HEADS).permute(2, 0, 3, 1, 4)
        if cache is not None:
            if cache:
                key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            cache[:] = key, value
        # With a cache a single token is read, which sees everything before it.
        y = F.scaled_dot_product_attention(query, key, value, is_causal=n > 1)  # (b, heads, n, d)
        return self.out(y.transpose(1, 2).reshape(b, n, h))


class Transformer(nn.Module):
    """A GPT over all tokens; the output matrix is the embedding matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(ROWS, HIDDEN), nn.Embedding(SLOTS + 3 + GRID**2, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = LayerNorm(HIDDEN)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                inner = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if inner else 0.02)
        for block in self.blocks:  # small models learn faster where the residual stream starts small
            nn.init.constant_(block.after_attention.weight, 0.2)
            nn.init.constant_(block.after_mlp.weight, 0.2)

    def forward(self, ids: Tensor, positions: Tensor, caches: list[list[Tensor]] | None = None) -> Tensor:
        """Logits (b, n, ROWS) of what follows each token, from ids and positions (b, n)."""
        x = self.tokens(ids) + self.positions(positions)
        for i, block in enumerate(self.blocks):
            x = block(x, None if caches is None else caches[i])
        return self.norm(x) @ self.tokens.weight.T

    def loss(self, texts: list[list[int]], codes: Tensor) -> Tensor:
        """Mean cross-entropy of the next token, text and image alike (section 2.1)."""
        ids, positions, counted = batch(texts, codes)
        logits = self(ids[:, :-1], positions[:, :-1])
        return F.cross_entropy(logits[counted[:, 1:]], ids[:, 1:][counted[:, 1:]])


# -------------------------------------------------------------------------------- 4. sampling


@torch.inference_mode()
def generate(
    model: Transformer, text: list[int], n: int, seed: int, guidance: float = 2.0, top_k: int = 16
) -> Tensor:
    """Codes (n, GRID * GRID) of n images of one text.

    Image i has random numbers of its own, so it is the same alone and among others. Each prompt is read once;
    with guidance (1: none) the model also reads an empty text, and logits move away from what it predicts.
    """
    streams = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(n)]
    prompts = [text] if guidance == 1 else [text, []]
    caches: list[list[list[Tensor]]] = [[[] for _ in range(LAYERS)] for _ in prompts]
    read = [prompt(one) for one in prompts]
    logits = [
        model(ids.expand(n, -1), positions.expand(n, -1), cache)[:, -1]
        for (ids, positions), cache in zip(read, caches, strict=True)
    ]
    codes = torch.empty(n, GRID**2, dtype=torch.int64)
    for step in range(GRID**2):
        scores = logits[0] if guidance == 1 else torch.lerp(logits[1], logits[0], guidance)
        scores = scores[:, :CODES]  # only a code can come here
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
        uniform = torch.stack([torch.rand(CODES, generator=stream) for stream in streams])
        codes[:, step] = (scores - torch.log(-torch.log(uniform))).argmax(-1)  # Gumbel: a sample of softmax
        place = torch.full((n, 1), SLOTS + 2 + step)
        logits = [model(codes[:, step : step + 1], place, cache)[:, -1] for cache in caches]
    return codes


# -------------------------------------------------------------------------------- training and a measure


def train(
    model: nn.Module, steps: int, rate: float, loss_of_batch: Callable[[], Tensor], name: str
) -> list[float]:
    """AdamW with a warm-up and a cosine; returns the losses."""
    optimizer, losses, start = torch.optim.AdamW(model.parameters(), lr=rate), [], time.monotonic()
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * i / steps))
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            took = time.monotonic() - start
            print(f"{name} {step + 1:5}: loss {np.mean(losses[-100:]):.4f}, {took:.0f} s", flush=True)
    return losses


def train_both(
    images: int, tokenizer_steps: int, steps: int, seed: int = 0
) -> tuple[ImageTokenizer, Transformer]:
    """Train the tokenizer, encode all images with it, then train the transformer on texts and codes."""
    torch.manual_seed(seed)
    texts, pixels = dataset(images, seed)
    tokenizer, model = ImageTokenizer(), Transformer()
    with torch.no_grad():  # start the codebook from real vectors
        tokenizer.codebook.copy_(tokenizer.features(pixels[:CODES]).reshape(-1, CODE_DIM)[:: GRID**2])
        tokenizer.total.copy_(tokenizer.codebook)
    train(
        tokenizer,
        tokenizer_steps,
        2e-3,
        lambda: tokenizer.loss(pixels[torch.randint(images, (32,))]),
        "tokenizer",
    )
    codes = torch.cat([tokenizer.encode(part) for part in pixels.split(256)])

    def loss() -> Tensor:
        chosen = torch.randint(images, (32,)).tolist()
        kept = torch.rand(32) > 0.1  # a tenth learns without its text, for guidance
        return model.loss([texts[i] if k else [] for i, k in zip(chosen, kept, strict=True)], codes[chosen])

    train(model, steps, 1e-3, loss, "transformer")
    return tokenizer.eval(), model.eval()


def shows(image: np.ndarray, colour: str, ground: str) -> bool:
    """Whether the commonest colour of the corners is the ground's, and enough inside is the shape's."""
    names, values = list(COLOURS), np.array([*COLOURS.values()], dtype=np.int64)
    nearest = np.abs(image[:, :, None].astype(np.int64) - values).sum(-1).argmin(-1)  # (SIDE, SIDE)
    corners = nearest[[0, 0, -1, -1], [0, -1, 0, -1]]
    found = np.bincount(corners, minlength=len(names)).argmax()
    return names[found] == ground and (nearest == names.index(colour)).mean() > 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("nano"), help="folder for the images")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--tokenizer-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    tokenizer, model = train_both(asked.images, asked.tokenizer_steps, asked.steps, asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    right, rows = [], []
    for colour, shape, ground in combinations()[1]:  # captions that were not trained on
        codes = generate(model, tokens_of(caption(colour, shape, ground)), 4, asked.seed)
        with torch.no_grad():
            images = (tokenizer.decode(codes).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
        right += [shows(image, colour, ground) for image in images]
        rows.append(np.concatenate([*images], 1))
    Image.fromarray(np.concatenate(rows)).save(asked.out / "held-out.png")
    torch.save({"tokenizer": tokenizer.state_dict(), "model": model.state_dict()}, asked.out / "nano.pt")
    print(f"{sum(right)} of {len(right)} images of held-out captions have both colours")


if __name__ == "__main__":
    main()
