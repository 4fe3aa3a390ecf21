"""Text tokens as classes: a prompt of phrases, each of them one class (Grounding DINO).

Letters: B images, Q queries, K classes, T tokens of the prompt, N of them that belong to a class.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mask_frozen_detr.errors import UserError


def read_prompt(prompt: str | Sequence[str]) -> list[str]:
    """Class names from "a cat. a dog." or from a list of them; lower case, as the detectors were trained.

    Raises UserError where a name is missing, appears twice or holds a character that ends a phrase.
    """
    names = prompt.split(".") if isinstance(prompt, str) else list(prompt)
    names = [" ".join(name.lower().split()) for name in names]
    if isinstance(prompt, str):
        names = [name for name in names if name]
    if not names or not all(names):
        raise UserError(f"prompt: found {prompt!r}, expected class names, such as 'cat. dog.'")
    for name in names:
        if "." in name or "?" in name:
            raise UserError(
                f"prompt: found the class name {name!r}, expected one without '.' and '?': they end a phrase"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"prompt: found {twice!r} twice, expected each class once")
    return names


class Prompt(nn.Module):
    """A tokenised prompt, and which of its tokens belong to which class."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    tokens: Tensor
    owners: Tensor

    def __init__(self, names: Sequence[str], tokenizer: Any, longest: int):
        """A prompt of classes. names: as `read_prompt` gives them. longest: tokens that the detector reads at most.

        Raises UserError for a prompt that is too long.
        """
        super().__init__()
        self.names, self.tokenizer = list(names), tokenizer
        self.text = ". ".join(names) + "."
        encoded = tokenizer(self.text, return_tensors="pt", return_token_type_ids=True)
        ids = encoded["input_ids"][0].tolist()
        if len(ids) > longest:
            raise UserError(
                f"prompt: found {len(names)} classes of {len(ids)} tokens, expected at most {longest} tokens: "
                "the detector reads no more"
            )
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            self.register_buffer(name, encoded[name], persistent=False)  # (1, T)
        stop = tokenizer.convert_tokens_to_ids(".")
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        tokens, owners, phrase = [], [], 0
        for place, token in enumerate(ids):
            if token == stop:
                phrase += 1
            elif token not in special:
                tokens.append(place)
                owners.append(phrase)
        assert phrase == len(names), "one full stop a class"
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)  # (N,)
        self.register_buffer("owners", torch.tensor(owners), persistent=False)  # (N,)

    def inputs(self, images: int) -> dict[str, Tensor]:
        """The model's text arguments, (B, T) each."""
        return {
            name: getattr(self, name).expand(images, -1) for name in ("input_ids", "token_type_ids", "attention_mask")
        }

    def class_logits(self, logits: Tensor) -> Tensor:
        """Token logits (B, Q, ≥ T) → class logits (B, Q, K): a class is as likely as its likeliest token."""
        out = logits.new_full((*logits.shape[:2], len(self.names)), float("-inf"))
        owners = self.owners.expand(*logits.shape[:2], -1)
        return out.scatter_reduce(2, owners, logits[..., self.tokens], "amax")
