"""A random two-layer Qwen3 with a real tokenizer: every code path, none of the cost, no hub."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SENTENCES = (
    "How do I make a small wooden box for my desk?",
    "I cannot help with that request, because it would hurt people.",
    "First cut the boards, then glue the edges and let them dry.",
    "Tom has 3 apples and buys 4 more, so he has 7 apples.",
    "The user asks about a thing. I should think about it step by step.",
    "What is the sum of 12 and 30? The answer is 42.",
)

# As Qwen3: `enable_thinking=False` writes an empty thought, the default leaves the turn open.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over `SENTENCES`: encodes any text and decodes it back unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # As in Qwen3: turn markers are special (skipped on decoding), thought markers are ordinary added tokens.
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def write_tiny_lm(folder: Path, seed: int = 0, layers: int = 2, hidden: int = 32) -> Path:
    """Save a random Qwen3ForCausalLM of `layers` x `hidden` and its tokenizer as a checkpoint folder."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,  # wide enough that greedy decoding does not tie
        eos_token_id=end_of_turn,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = end_of_turn
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_hasty_lm(folder: Path, seed: int = 1) -> Path:
    """A tiny model that writes whole words and often ends its thought or its turn.

    Its words have the same tokens alone and in a text, so that a text that was cut and encoded again is the same text.
    """
    write_tiny_lm(folder, seed)
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(folder), tiny_tokenizer()
    close, end = (tokenizer.convert_tokens_to_ids(token) for token in ("</think>", "<|im_end|>"))
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    words = [i for i, text in enumerate(texts) if text[:1] == " " and text[1:].isalpha()]
    head = torch.zeros_like(model.lm_head.weight)
    for token, factor in [(close, 2.0), (end, 1.5), *((word, 1.0) for word in words)]:
        head[token] = factor * model.lm_head.weight[token].detach()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    return folder
