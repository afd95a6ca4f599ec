"""The tokenizer, and a cheap start for the text encoders: which thing, which style, roughly what picture?"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from tdd_cli.bundled.emoji import STYLES, captions, dataset, retrieval
from tdd_cli.bundled.emoji.model import LENGTH, WIDTHS, Text, new_text, save_text
from tdd_cli.bundled.emoji.train import loop

MERGES = 1600


def new_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """Byte-level BPE in CLIP's manner; every byte is in it, also as a word's end: no text is unknown."""
    blank = CLIPTokenizer().backend_tokenizer  # for its normaliser and its division into words
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = _merges(learner)
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in learnt)]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=learnt, model_max_length=LENGTH
    )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


class Heads(nn.Module):
    """What the pooled embedding, and every encoder's end token, must tell; thrown away afterwards."""

    def __init__(self, things: int, styles: int, pixels: int) -> None:
        super().__init__()
        self.thing = nn.Linear(WIDTHS[1], things)
        self.style = nn.Linear(WIDTHS[1], styles)
        self.picture = nn.Linear(WIDTHS[1], pixels)
        self.thing_from_embeds = nn.Linear(sum(WIDTHS), things)


def loss(text: Text, heads: Heads, tokens: Tensor, thing: Tensor, style: Tensor, picture: Tensor) -> Tensor:
    """Cross-entropies of thing [B] and named style [B], squared error of the blurred picture [B, P]: []."""
    cond = text.encode(tokens)
    end = (tokens == text.tokenizer.eos_token_id).int().argmax(dim=1)
    at_end = cond.embeds[torch.arange(len(tokens)), end]
    return (
        F.cross_entropy(heads.thing(cond.pooled), thing)
        + F.cross_entropy(heads.style(cond.pooled), style)
        + F.cross_entropy(heads.thing_from_embeds(at_end), thing)
        + 5 * F.mse_loss(heads.picture(cond.pooled), picture)
        + 0.01 * (cond.pooled.pow(2).mean() - 1) ** 2  # unit size, which the network's embedding expects
    )


def train(folder: Path, *, minutes: float, batch: int = 192, rate: float = 2e-3) -> None:
    """Train for so many minutes; the result is folder/text, the text parts of a pipeline folder."""
    torch.manual_seed(0)
    emoji = dataset.load()
    names = sorted({row.name for row in emoji.rows})
    thing = torch.tensor([names.index(row.name) for row in emoji.rows])
    pictures = retrieval.features(emoji.images)
    text = new_text(new_tokenizer(captions.all_wordings(emoji.rows)))
    heads = Heads(len(names), len(STYLES) + 1, pictures.shape[1])
    weights = [*text.first.parameters(), *text.second.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "initial_lr": rate}], lr=rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    generator = torch.Generator().manual_seed(0)
    for step, (share, used) in enumerate(loop.progress(minutes), 1):
        loop.set_rate(optimizer, loop.cosine(share, step, warmup=100))
        chosen = torch.randint(len(emoji.rows), (batch,), generator=generator)
        texts = [captions.caption(emoji.rows[i], generator) for i in chosen]
        style = torch.tensor([style_named(line) for line in texts])
        value = loss(text, heads, text.tokens(texts), thing[chosen], style, pictures[chosen])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 100 == 0:
            loop.log(folder / "text.jsonl", step=step, minutes=used, loss=value.item())
    save_text(text, folder / "text")


def style_named(text: str) -> int:
    """Which style a caption names; the number of styles stands for none."""
    ends = [text.endswith((f", {word}", f", {word} style")) for word in STYLES.values()]
    return ends.index(True) if any(ends) else len(STYLES)
